"""Loading all weights of a model, or saying in one line why not."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from focal_mm.checkpoint import convert_released
from focal_mm.checkpoint.read import state_dict_of
from focal_mm.checkpoint.released import is_released
from focal_mm.engine.errors import UserError

_SIZE_MISMATCH = re.compile(
    r"size mismatch for (?P<name>\S+): .*?torch\.Size\(\[(?P<file>[\d, ]*)\]\)"
    r".*?torch\.Size\(\[(?P<model>[\d, ]*)\]\)"
)


def load_weights(model: nn.Module, checkpoint: str) -> tuple[dict, list[str]]:
    """Load a checkpoint of the whole model.

    The libraries' inferencers load what fits and leave the rest of the model at
    random; here every weight must be in the file.

    Args:
        model: Of any task library.
        checkpoint: File or address; a released classifier's as it is, too.

    Returns:
        The ``dataset_meta`` in the file, keys in lower case, and lines for the user.

    Raises:
        UserError: If it does not fit the model.
        focal_mm.checkpoint.CheckpointError: If it cannot be read.
    """
    loaded = CheckpointLoader.load_checkpoint(checkpoint, "cpu", logger="silent")
    state = state_dict_of(loaded, checkpoint)
    if is_released(state):
        state = convert_released(state)
    _check_parts(model, state, checkpoint)
    ordered = OrderedDict(state)
    # By it, layers tell which version of them wrote the file.
    ordered._metadata = getattr(loaded.get("state_dict"), "_metadata", None)
    try:
        missing, unexpected = model.load_state_dict(ordered, strict=False)
    except RuntimeError as error:
        raise UserError(f"{checkpoint} {_mismatch(error)}") from None
    if missing:
        raise UserError(
            f"{checkpoint} does not fit the config: it lacks {len(missing)} of the "
            f"model's {len(model.state_dict())} weights, the first is {missing[0]}"
        )
    notes = []
    if unexpected:
        notes.append(
            f"{len(unexpected)} weights of the checkpoint have no place in the model, "
            f"the first is {unexpected[0]}"
        )
    return _dataset_meta(loaded), notes


def _check_parts(
    model: nn.Module, state: Mapping[str, Tensor], checkpoint: str
) -> None:
    """Raise if the file has nothing at all for a part of the model."""
    wanted = _parts(model.state_dict())
    present = _parts(state)
    absent = [part for part in wanted if part not in present]
    if not absent:
        return
    alone = set(present) == {"backbone"}
    raise UserError(
        f"{checkpoint} does not fit the config: it has "
        + ("a backbone only and " if alone else "")
        + f"nothing for the model's {', '.join(absent)}; needed is a checkpoint of the "
        "whole model, as training writes it"
    )


def _parts(state: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.split(".")[0] for name in state))


def _mismatch(error: RuntimeError) -> str:
    found = list(_SIZE_MISMATCH.finditer(str(error)))
    if not found:
        return f"does not fit the config: {' '.join(str(error).split())}"
    first = found[0]
    return (
        f"does not fit the config: {len(found)} weights are of another size, the first "
        f"is {first['name']}, ({first['file']}) in the file and ({first['model']}) in "
        "the model"
    )


def _dataset_meta(loaded: Mapping[str, Any]) -> dict:
    meta = loaded.get("meta") or {}
    if "dataset_meta" in meta:
        return {key.lower(): value for key, value in meta["dataset_meta"].items()}
    # Before version 3 of mmdet and 1 of mmseg and mmpretrain.
    return {key.lower(): meta[key] for key in ("CLASSES", "PALETTE") if key in meta}
