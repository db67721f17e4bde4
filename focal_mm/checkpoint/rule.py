"""The one rule for loading a whole model: every weight, in its shape, finite."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import Tensor, nn

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.layouts import to_openmmlab
from focal_mm.checkpoint.read import (
    check_finite,
    state_dict_of,
    unwrapped,
    without_prefix,
)
from focal_mm.checkpoint.state import check_state_dict
from focal_mm.models import FocalTransformer

_STATISTICS = ("running_mean", "running_var")
"""Buffers that are learned; others follow from the config and may be absent."""

_SIZE_MISMATCH = re.compile(
    r"size mismatch for (\S+): copying a param with shape torch\.Size\(\[(.*)\]\) "
    r"from checkpoint, the shape in current model is torch\.Size\(\[(.*)\]\)"
)


def load_weights(
    model: nn.Module,
    checkpoint: Mapping[str, Any],
    path: str,
    allow_partial: bool = False,
) -> list[str]:
    """Load all weights of a model from a checkpoint, or refuse the checkpoint.

    Names may begin with ``module.``, ``model.`` or ``ema_``; Focal Transformers may be
    in any of :data:`focal_mm.checkpoint.layouts.LAYOUTS`.

    Args:
        model: Any model; what wraps it is looked through.
        checkpoint: What :func:`focal_mm.checkpoint.read_checkpoint` returned.
        path: Where it came from, for the errors.
        allow_partial: Load what fits where something is missing or has another shape.

    Returns:
        Lines for the log: what has no place in the model, what keeps its start value.

    Raises:
        CheckpointError: If a weight of the model is missing or has another shape, or
            the file holds NaN or infinite weights. The model is not fit for use then.
    """
    model = _inner(model)
    state = weights_for(model, checkpoint, path)
    parameters = dict(model.named_parameters())
    learned = [
        name
        for name in model.state_dict()
        if name in parameters or name.endswith(_STATISTICS)
    ]
    # Masks, for one, may hold -inf.
    check_finite(state, path, may_be_infinite=state.keys() - set(learned))

    if not allow_partial:
        _check_backbones(model, state, path)
    missing, unexpected, misfits = _load(model, state, path)
    random = [name for name in learned if name in missing]
    derived = [
        name
        for name in missing
        if name not in learned and not name.endswith("num_batches_tracked")
    ]
    notes = []
    if random:
        if not allow_partial or len(random) == len(learned):
            reason = _reason(state, learned, random, misfits, path)
            raise CheckpointError(f"{path} does not fit the model: {reason}")
        notes.append(
            f"{path} is loaded in part: {len(random)} of the model's {len(learned)} "
            f"weights keep their random values, in {_by_part(random)}"
        )
    if derived:
        notes.append(
            f"{path} lacks {len(derived)} buffers, which are as the config makes them: "
            f"{', '.join(derived)}"
        )
    if unexpected:
        notes.append(
            f"{len(unexpected)} weights of {path} have no place in the model, the "
            f"first is {unexpected[0]}"
        )
    return notes


def weights_for(
    model: nn.Module, checkpoint: Mapping[str, Any], path: str
) -> dict[str, Tensor]:
    """The weights of a checkpoint under the names of a model.

    Args:
        model: Any model; what wraps it is looked through.
        checkpoint: What :func:`focal_mm.checkpoint.read_checkpoint` returned.
        path: Where it came from, for the error.

    Raises:
        CheckpointError: If it holds no weights.
    """
    model = _inner(model)
    state = unwrapped(state_dict_of(checkpoint, path), model.state_dict())
    # A Swin Transformer's weights are for itself first.
    if any(isinstance(module, FocalTransformer) for module in model.modules()):
        return to_openmmlab(state) or state
    return state


def _check_backbones(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Check what is not told by missing names: that backbones are not deeper ones."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        part = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if part and isinstance(module, FocalTransformer):
            try:
                check_state_dict(part, module)
            except CheckpointError as error:
                raise CheckpointError(f"{path}: {error}") from None


def _inner(model: nn.Module) -> nn.Module:
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _load(
    model: nn.Module, state: dict[str, Tensor], path: str
) -> tuple[list[str], list[str], dict[str, str]]:
    """Load what fits; names that are missing and unexpected, and shapes that differ."""
    misfits = {}
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        misfits = {
            name: f"{name} is ({found}) in the file and ({wanted}) in the model"
            for name, found, wanted in _SIZE_MISMATCH.findall(str(error))
        }
        if not misfits:
            # PyTorch's first line is a title, and then comes a line for each weight.
            reason = str(error).strip().splitlines()[:2][-1].strip()
            raise CheckpointError(f"{path} does not fit the model: {reason}") from None
        fitting = without_prefix(state, "")
        for name in misfits:
            fitting.pop(name, None)
        missing, unexpected = model.load_state_dict(fitting, strict=False)
    return missing, unexpected, misfits


def _by_part(names: Iterable[str]) -> str:
    parts = Counter(name.split(".")[0] for name in names)
    return ", ".join(f"{part} ({count})" for part, count in parts.items())


def _reason(
    state: Mapping[str, Tensor],
    learned: Sequence[str],
    random: Sequence[str],
    misfits: Mapping[str, str],
    path: str,
) -> str:
    """What is missing, and what would make the file fit."""
    in_part = ", or --allow-partial to load what fits"
    if misfits:
        first, *others = misfits.values()
        return (
            f"{first}{f', and {len(others)} more differ' if others else ''}: give the "
            f"model the num_classes and sizes of the file's config{in_part}"
        )
    start = f"a backbone goes by model.backbone.init_cfg.checkpoint={path} in training"
    if len(random) == len(learned):
        is_bare = any(f"backbone.{name}" in learned for name in state)
        return (
            f"it has none of its names: the first are {next(iter(state))} in the file "
            f"and {learned[0]} in the model; "
            f"{start if is_bare else 'it is of another model'}"
        )
    is_backbone = all(
        name.startswith("backbone.") for name in learned if name not in random
    )
    whole = "needed is a checkpoint of the whole model, as training writes it"
    return (
        f"it lacks {len(random)} of {len(learned)} weights, in {_by_part(random)}, the "
        f"first is {random[0]}: {start if is_backbone else whole}{in_part}"
    )
