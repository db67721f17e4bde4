"""Models by name, for use without OpenMMLab."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.logging import print_log
from torch import Tensor

from focal_mm.checkpoint import CheckpointError, read_checkpoint
from focal_mm.checkpoint.layouts import to_openmmlab
from focal_mm.checkpoint.parts import BACKBONE
from focal_mm.checkpoint.read import check_finite, state_dict_of, unwrapped
from focal_mm.checkpoint.state import check_state_dict
from focal_mm.models import hub
from focal_mm.models.classifier import FocalClassifier, FocalFeatures
from focal_mm.models.focal_transformer import FocalTransformer
from focal_mm.models.presets import MODELS

_OPTIONS = sorted(
    set(inspect.signature(FocalTransformer).parameters) - {"in_channels", "init_cfg"}
)


def create_model(
    name: str,
    checkpoint: str | Path | None = None,
    features_only: bool = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
    **backbone_arguments: Any,
) -> FocalClassifier | FocalFeatures:
    """Build a published model around a :class:`focal_mm.models.FocalTransformer`.

    Args:
        name: A key of :data:`focal_mm.models.MODELS`, or ``hf-hub:USER/NAME`` (with
            ``@REVISION`` if wanted) or ``local-dir:FOLDER`` for the model and the
            weights of a repository or folder in the Hugging Face Hub's layout.
        checkpoint: Weights: all that ``init_cfg`` takes (released files and those of
            other layouts that :mod:`focal_mm.checkpoint` knows), those of this
            function's models, and ``hf-hub:…`` or ``local-dir:…``. The log says what
            was taken, resized and left out. Default: random weights, or those that
            ``name`` leads to.
        features_only: Return the maps of the stages, not a classifier.
        num_classes: Of the classifier; 0 for none, so that it returns what would
            enter its linear layer. No effect with ``features_only``. Default: 1000,
            or that of the model that ``name`` leads to.
        in_channels: Channels of the image. Default: 3, or as above.
        backbone_arguments: Of :class:`focal_mm.models.FocalTransformer`, over those
            of the name; ``out_indices`` with ``features_only``.

    Returns:
        With ``features_only`` a module whose forward turns an image
        (N, in_channels, H, W) into a list of maps (N, C_i, H_i, W_i), each after its
        norm, which ``feature_info`` describes. Else a classifier whose forward gives
        logits (N, num_classes).

    Raises:
        ValueError: If there is no model of this name, or an argument is out of range
            or does not fit the others.
        TypeError: If the backbone has no argument of a name.
        focal_mm.checkpoint.CheckpointError: If weights cannot be read or are of
            another model.
    """
    stored: dict[str, Any] = {}
    if hub.is_hub_name(name):
        found = hub.find(name)
        stored = {"num_classes": found.num_classes, **found.arguments}
        if not features_only:
            stored.pop("out_indices", None)
        checkpoint = checkpoint or found.weights
        name = found.name
    if name not in MODELS:
        raise ValueError(f"unknown model {name!r}{_nearest(name, MODELS)}")
    given = {"num_classes": num_classes, "in_channels": in_channels}
    given = {key: value for key, value in given.items() if value is not None}
    arguments = {**MODELS[name], **stored, **given, **backbone_arguments}
    num_classes = arguments.pop("num_classes", 1000)
    for option in arguments:
        if option not in _OPTIONS and option != "in_channels":
            raise TypeError(
                f"unknown argument {option!r}{_nearest(option, _OPTIONS)}; "
                "help(focal_mm.FocalTransformer) describes them all"
            )

    if features_only:
        model = FocalFeatures(FocalTransformer(**arguments))
    else:
        if "out_indices" in arguments:
            raise ValueError("out_indices has no effect without features_only=True")
        backbone = FocalTransformer(**arguments, out_indices=(3,))
        model = FocalClassifier(backbone, num_classes)
    if checkpoint is not None:
        load_checkpoint(model, str(checkpoint))
    return model


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f": did you mean {' or '.join(near)}?" if near else f": {', '.join(known)}"


def load_checkpoint(model: FocalClassifier | FocalFeatures, checkpoint: str) -> None:
    """Load a checkpoint into a model and log what was done.

    Args:
        model: As :func:`create_model` returns it.
        checkpoint: As that takes it.

    Raises:
        focal_mm.checkpoint.CheckpointError: If it cannot be read or is of another
            model; the model is unchanged then.
    """
    is_hub = hub.is_hub_name(checkpoint)
    path = str(hub.find(checkpoint).weights) if is_hub else checkpoint
    print_log(f"weights from {checkpoint}", logger="current")
    state = unwrapped(state_dict_of(read_checkpoint(path), path), model.state_dict())
    check_finite(state, path)
    try:
        state = own_weights(state, model)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    model.load_state_dict(state, strict=False)


def own_weights(
    state: Mapping[str, Tensor], model: FocalClassifier | FocalFeatures
) -> dict[str, Tensor]:
    """The part of a state dict that a model has a place for, and log the rest.

    Args:
        state: A backbone, classifier, detector or segmentor, in the layout of OpenMMLab
            or another one that :mod:`focal_mm.checkpoint` knows.
        model: As :func:`create_model` returns it.

    Returns:
        The backbone's weights as they are, and those of the head if they fit.

    Raises:
        focal_mm.checkpoint.CheckpointError: If they are of another model.
    """
    state = to_openmmlab(state) or state
    if not any(name.startswith(BACKBONE) for name in state):
        state = {BACKBONE + name: value for name, value in state.items()}
    own = {k: v for k, v in state.items() if k.startswith(BACKBONE)}
    backbone = {k.removeprefix(BACKBONE): v for k, v in own.items()}
    check_state_dict(backbone, model.backbone)
    head = {k: v for k, v in model.state_dict().items() if not k.startswith(BACKBONE)}
    if head and all(
        name in state and state[name].shape == value.shape
        for name, value in head.items()
    ):
        own.update({name: state[name] for name in head})
    elif head:
        print_log(
            f"{', '.join(head)} initialised: the checkpoint has none for "
            f"{len(head['head.fc.bias'])} classes",
            logger="current",
        )
    dropped = [name for name in state if name not in own]
    if dropped:
        print_log(
            f"{len(dropped)} keys dropped, no place in the model: {', '.join(dropped)}",
            logger="current",
        )
    return own
