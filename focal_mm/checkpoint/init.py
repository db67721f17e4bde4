"""Initialising a backbone from a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.layouts import to_openmmlab
from focal_mm.checkpoint.parts import BACKBONE
from focal_mm.checkpoint.read import (
    check_finite,
    read_checkpoint,
    state_dict_of,
    unwrapped,
)
from focal_mm.checkpoint.state import check_state_dict


def pretrained_of(
    init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
) -> tuple[list[dict[str, Any]] | None, PretrainedInit | None]:
    """Split an ``init_cfg`` into its other entries and its 'Pretrained' entry.

    Raises:
        ValueError: If there are several of the latter, or it has an unknown key.
    """
    if init_cfg is None:
        return None, None
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else init_cfg
    others, found = [], []
    for entry in map(dict, entries):
        if entry["type"] in ("Pretrained", PretrainedInit):
            del entry["type"]
            try:
                found.append(PretrainedInit(**entry))
            except TypeError as error:
                raise ValueError(f"init_cfg: {error}") from None
        else:
            others.append(entry)
    if len(found) > 1:
        raise ValueError("init_cfg: more than one entry of type 'Pretrained'")
    return others or None, found[0] if found else None


def _part(state: dict[str, Tensor], prefix: str, path: str) -> dict[str, Tensor]:
    """The weights under ``prefix``, without it; the others are named in the log."""
    prefix = prefix.rstrip(".") + "."
    own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not own:
        raise CheckpointError(
            f"{path}: no weights under the prefix {prefix!r}; the first name is "
            f"{next(iter(state))!r}"
        )
    others = [name for name in state if not name.startswith(prefix)]
    if others:
        print_log(
            f"{path}: {len(others)} keys outside {prefix!r} dropped: "
            f"{', '.join(others)}",
            logger="current",
        )
    return own


def init_from_checkpoint(model: nn.Module, pretrained: PretrainedInit) -> None:
    """Load a checkpoint into a backbone and log what was done.

    Args:
        model: The :class:`focal_mm.models.FocalTransformer`.
        pretrained: MMEngine's entry. Without a prefix, ``backbone.`` is taken where
            the file has it.

    Raises:
        CheckpointError: If the file cannot be read or is of another model; the
            backbone is unchanged then.
    """
    path = pretrained.checkpoint
    print_log(f"backbone weights from {path}", logger="current")
    checkpoint = read_checkpoint(path, pretrained.map_location or "cpu")
    state, prefix = state_dict_of(checkpoint, path), pretrained.prefix
    # A prefix that was given may be a wrapper's.
    state = unwrapped(state, [n for n in state if prefix and n.startswith(prefix)])
    if prefix:
        state = _part(state, prefix, path)
    check_finite(state, path)
    try:
        state = to_openmmlab(state) or state
        if any(name.startswith(BACKBONE) for name in state):
            state = _part(state, BACKBONE, path)
        check_state_dict(state, model)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.load_state_dict(state, strict=False)
