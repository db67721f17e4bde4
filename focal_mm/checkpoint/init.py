"""Initialising a backbone from a checkpoint file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.logging import print_log
from mmengine.model import PretrainedInit
from torch import Tensor, nn

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.read import read_checkpoint, state_dict_of

_PREFIX = "backbone."


def pretrained_of(
    init_cfg: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None,
) -> tuple[list[dict[str, Any]] | None, dict[str, Any] | None]:
    """Split an ``init_cfg`` into its other entries and its 'Pretrained' entry."""
    if init_cfg is None:
        return None, None
    entries = [init_cfg] if isinstance(init_cfg, Mapping) else list(init_cfg)
    pretrained = [e for e in entries if e["type"] in ("Pretrained", PretrainedInit)]
    others = [dict(entry) for entry in entries if entry not in pretrained]
    if len(pretrained) > 1:
        raise ValueError("init_cfg: more than one entry of type 'Pretrained'")
    return others or None, dict(pretrained[0]) if pretrained else None


def _backbone_part(
    state: dict[str, Tensor], prefix: str | None, path: str
) -> dict[str, Tensor]:
    """Weights of the backbone alone, under its own names."""
    if prefix is None and any(name.startswith(_PREFIX) for name in state):
        prefix = _PREFIX
    if not prefix:
        return state
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


def init_from_checkpoint(model: nn.Module, cfg: Mapping[str, Any]) -> None:
    """Load ``cfg['checkpoint']`` into a backbone and log what was done.

    Args:
        model: The :class:`focal_mm.models.FocalTransformer`.
        cfg: MMEngine's 'Pretrained' entry: ``checkpoint``, and optionally ``prefix``
            and ``map_location``. Without a prefix, ``backbone.`` is taken where the
            file has it.

    Raises:
        CheckpointError: If the file cannot be read or is of another model; the
            backbone is unchanged then.
        ValueError: If ``cfg`` has an unknown key.
    """
    unknown = set(cfg) - {"type", "checkpoint", "prefix", "map_location"}
    if unknown:
        raise ValueError(
            f"init_cfg: unknown keys {sorted(unknown)} beside type='Pretrained'; "
            "allowed are checkpoint, prefix, map_location"
        )
    path = cfg["checkpoint"]
    print_log(f"backbone weights from {path}", logger="current")
    checkpoint = read_checkpoint(path, cfg.get("map_location", "cpu"))
    state = _backbone_part(state_dict_of(checkpoint, path), cfg.get("prefix"), path)
    try:
        # What does not fit raises before anything is written.
        model.load_state_dict(state, strict=False)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
