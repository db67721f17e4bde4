"""Reading checkpoint files without executing anything in them."""

from __future__ import annotations

import argparse
import contextlib
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from mmengine.fileio import get_local_path
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.paddle import is_plain_pickle, read_paddle

# Local files, downloads and object stores, as MMEngine's registry spells them.
_SCHEMES = ("", "http://", "https://", r"(\S+\:)?s3://", r"(\S+\:)?petrel://")

_PREFIXES = ("module.", "model.", "ema_")
"""What wrappers put before the names of a model: data parallelism, trainers, averages.
"""


def _history_method(owner: type, name: str) -> Callable[..., Any]:
    """Stands for ``getattr`` in a pickle, of which HistoryBuffer's methods are all."""
    if owner is not HistoryBuffer or name.startswith("_"):
        raise pickle.UnpicklingError(f"Unsupported attribute {name!r} of {owner!r}")
    return getattr(owner, name)


@contextlib.contextmanager
def _training_state_allowed() -> Iterator[None]:
    """Let weights_only reading accept what trainings store beside weights.

    That is what MMEngine's runner stores, and the arguments that timm's does.
    """
    dtypes = {type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "u4", "u8")}
    allowed = [
        HistoryBuffer,
        argparse.Namespace,
        (_history_method, "builtins.getattr"),
        # What pickles name: numpy 1 and 2 keep these functions in different modules.
        np.zeros(1).__reduce__()[0],
        np.float64(0).__reduce__()[0],
        np.ndarray,
        np.dtype,
        *dtypes,
    ]
    with torch.serialization.safe_globals(allowed):
        yield


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _load(path: str, map_location: str) -> Any:
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path, device=map_location)
    if is_plain_pickle(path):
        return read_paddle(path, map_location)
    _check_sums(path)
    with _training_state_allowed():
        return torch.load(path, map_location=map_location, weights_only=True)


def _check_sums(path: str) -> None:
    """Check the CRC-32s of PyTorch's zip format, which ``torch.load`` passes over.

    Raises:
        ValueError: If one of them is wrong.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        # They are all 0 where torch.serialization.set_crc32_options has left them out.
        written = any(record.CRC for record in archive.infolist())
        bad = archive.testzip() if written else None
    if bad is not None:
        raise ValueError(f"the checksum of {bad} is wrong")


def _read_local(path: str, map_location: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        loaded = _load(path, map_location)
    except ImportError:
        raise CheckpointError(
            f"{path}: reading .safetensors needs the package safetensors "
            "(pip install safetensors)"
        ) from None
    except pickle.UnpicklingError as error:
        # PyTorch's message is long, and advises to trust the file.
        asked = re.search(r"(?:GLOBAL|attribute|class) (\S+)", str(error))
        asks = f" (it asks for {asked[1]})" if asked else ""
        raise CheckpointError(
            f"{path} is not a file of plain weights: it holds objects that would run "
            f"code, or it is damaged; nothing was executed or loaded{asks}"
        ) from None
    # Damaged files raise a dozen kinds of errors, safetensors' own among them.
    except Exception as error:
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({_first_line(error)}); "
            "nothing was loaded"
        ) from None
    if not isinstance(loaded, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(loaded).__name__}, a checkpoint is a dict; "
            "nothing was loaded"
        )
    return dict(loaded)


def _download(url: str) -> Path:
    """Where PyTorch keeps a download: once per machine, the main process first."""
    path = Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)
    if not is_main_process():
        barrier()
    try:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path))
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{url} cannot be downloaded: {_first_line(error)}"
        ) from None
    finally:
        if is_main_process():
            barrier()
    return path


def read_checkpoint(path: str | Path, map_location: str = "cpu") -> dict[str, Any]:
    """Read a checkpoint file as it is.

    Args:
        path: A local file (.pth and the like, or .safetensors), an http(s) or file
            address, or an address that MMEngine's file backends know.
        map_location: Device that tensors are put on.

    Returns:
        What the file holds: weights, or a dict that holds them under ``state_dict``
        or ``model``; see :func:`state_dict_of`.

    Raises:
        CheckpointError: If the file is missing, truncated, holds anything but
            tensors and plain data, or is not a checkpoint.
    """
    path = str(path)
    if path.startswith(("http://", "https://", "file://")):
        return _read_local(str(_download(path)), map_location)
    with get_local_path(path) as local:
        return _read_local(str(Path(local).expanduser()), map_location)


def state_dict_of(checkpoint: Mapping[str, Any], path: str) -> OrderedDict[str, Tensor]:
    """The weights in what :func:`read_checkpoint` returned.

    Args:
        checkpoint: Weights, or a dict with them under ``state_dict`` or ``model``.
        path: Where it came from, for the error.

    Returns:
        Weights by name, with PyTorch's ``_metadata`` where the file has it.

    Raises:
        CheckpointError: If there are none.
    """
    state = checkpoint
    for key in ("state_dict", "model"):
        if isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(
            f"{path} holds no weights: expected tensors by name, at the top level or "
            "under 'state_dict' or 'model'; nothing was loaded"
        )
    weights = OrderedDict(state)
    if hasattr(state, "_metadata"):
        weights._metadata = state._metadata
    return weights


def unwrapped(state: dict[str, Tensor], known: Collection[str]) -> dict[str, Tensor]:
    """Weights without the prefixes of wrappers, if none of their names is known.

    Args:
        state: Weights by name, with PyTorch's ``_metadata`` if they have it.
        known: Names that the model has.
    """
    # One wrapper may hold another.
    for prefix in _PREFIXES * 2:
        if not any(name in known for name in state):
            state = without_prefix(state, prefix)
    return state


def without_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The same weights, where they begin with a prefix without it."""
    stripped = type(state)((k.removeprefix(prefix), v) for k, v in state.items())
    metadata = getattr(state, "_metadata", None)
    if metadata is not None:
        # By it, layers tell which version of them wrote the file.
        stripped._metadata = {k.removeprefix(prefix): v for k, v in metadata.items()}
    return stripped


def check_finite(
    state: Mapping[str, Tensor], path: str, may_be_infinite: Collection[str] = ()
) -> None:
    """Check that weights are numbers.

    Raises:
        CheckpointError: If one of them holds NaN, or inf where it may not.
    """
    bad = [
        name
        for name, value in state.items()
        if value.is_floating_point()
        and (value.isnan() if name in may_be_infinite else ~value.isfinite()).any()
    ]
    if bad:
        raise CheckpointError(
            f"{path}: {len(bad)} of {len(state)} weights hold NaN or inf, the first is "
            f"{bad[0]}: its training has diverged; take an earlier checkpoint"
        )


def use_safe_loaders() -> None:
    """Make MMEngine read checkpoints by :func:`read_checkpoint`.

    MMEngine's own loaders fall back to unpickling arbitrary objects where the safe
    way fails.
    """
    CheckpointLoader.register_scheme(_SCHEMES, load_from_safe_reader, force=True)


# MMEngine logs the name less "load_from_", and passes both arguments.
def load_from_safe_reader(filename: str, map_location: str | None = None) -> dict:
    """Read a checkpoint.

    Raises:
        CheckpointError: If it cannot be read safely.
    """
    return read_checkpoint(filename, map_location=map_location or "cpu")
