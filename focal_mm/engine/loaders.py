"""Reading the checkpoints that users name, without executing what is in them."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader

from focal_mm.checkpoint import read_checkpoint

# Local files, downloads and object stores, as MMEngine's registry spells them.
_SCHEMES = ("", "http://", "https://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://")


def use_safe_loaders() -> None:
    """Make MMEngine read checkpoints by :func:`focal_mm.checkpoint.read_checkpoint`.

    MMEngine's own loaders fall back to unpickling arbitrary objects where the safe
    way fails.
    """
    CheckpointLoader.register_scheme(_SCHEMES, load_from_safe_reader, force=True)


# MMEngine logs the name less "load_from_", and passes both arguments.
def load_from_safe_reader(filename: str, map_location: str | None = None) -> dict:
    """Read a checkpoint, that of a stopped training included.

    Raises:
        focal_mm.checkpoint.CheckpointError: If it cannot be read safely.
    """
    safe_globals = getattr(torch.serialization, "safe_globals", nullcontext)
    with safe_globals([_history_method]):
        return read_checkpoint(filename, map_location=map_location or "cpu")


def _history_method(owner: object, name: str) -> Callable:
    """All that training checkpoints need of ``getattr``: HistoryBuffer's methods."""
    if owner is not HistoryBuffer or name.startswith("_"):
        raise ValueError(f"getattr({owner!r}, {name!r}) is not allowed")
    return getattr(HistoryBuffer, name)


# By this name the unpickler looks it up.
_history_method.__module__, _history_method.__qualname__ = "builtins", "getattr"
