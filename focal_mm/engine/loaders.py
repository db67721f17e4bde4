"""Reading the checkpoints that users name, without executing what is in them."""

import torch
from mmengine.runner.checkpoint import CheckpointLoader

from focal_mm.checkpoint import read_checkpoint
from focal_mm.checkpoint.read import reads_training_state

# Local files, downloads and object stores, as MMEngine's registry spells them.
_SCHEMES = ("", "http://", "https://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://")


def use_safe_loaders() -> list[str]:
    """Make MMEngine read checkpoints by :func:`focal_mm.checkpoint.read_checkpoint`.

    MMEngine's own loaders fall back to unpickling arbitrary objects where the safe
    way fails.

    Returns:
        Lines for the log: what stays as it was, and why.
    """
    if not reads_training_state():
        return [
            f"PyTorch {torch.__version__} cannot read training checkpoints without "
            "unpickling what they hold (2.6 can): MMEngine's own loaders read "
            "--resume, load_from and tested checkpoints; use files that you trust"
        ]
    CheckpointLoader.register_scheme(_SCHEMES, load_from_safe_reader, force=True)
    return []


# MMEngine logs the name less "load_from_", and passes both arguments.
def load_from_safe_reader(filename: str, map_location: str | None = None) -> dict:
    """Read a checkpoint.

    Raises:
        focal_mm.checkpoint.CheckpointError: If it cannot be read safely.
    """
    return read_checkpoint(filename, map_location=map_location or "cpu")
