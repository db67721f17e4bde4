"""Layouts of weights that are not the backbone's own, recognised by content.

Config and command line know no names of layouts: a file is taken as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from mmengine.logging import print_log
from torch import Tensor

from focal_mm.checkpoint.paddle import convert_paddle, is_paddle
from focal_mm.checkpoint.parts import split_backbone
from focal_mm.checkpoint.released import convert_released, is_released
from focal_mm.checkpoint.swin import convert_swin, is_swin


class Layout(NamedTuple):
    """A layout of a model's weights.

    Attributes:
        title: Whose it is, for the log.
        recognises: Whether a model's tensors are in this layout. Their names come
            without ``backbone.``.
        convert: Bring them into the layout of an mmpretrain ImageClassifier
            (``backbone.…``, ``head.fc.…``). It does not know the target: tables come
            in any one size and are resized when they are loaded.
    """

    title: str
    recognises: Callable[[Mapping[str, Tensor]], bool]
    convert: Callable[[Mapping[str, Tensor]], dict[str, Tensor]]


LAYOUTS = (
    Layout("a Swin Transformer", is_swin, convert_swin),
    Layout("PaddleViT's Focal Transformer", is_paddle, convert_paddle),
    Layout("released Focal Transformer", is_released, convert_released),
)
"""The first that recognises a file converts it."""


def to_openmmlab(state: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Convert weights of another layout and log what became of them.

    Args:
        state: A backbone, a classifier, or a whole detector or segmentor, whose
            ``backbone.…`` is converted and whose other weights stay as they are.

    Returns:
        The weights in OpenMMLab's layout: ``backbone.…`` and the rest. None if the
        layout is not one of :data:`LAYOUTS`.

    Raises:
        focal_mm.checkpoint.CheckpointError: If a name is not of the layout.
    """
    own, others = split_backbone(state)
    layout = next((layout for layout in LAYOUTS if layout.recognises(own)), None)
    if layout is None:
        return None
    converted = layout.convert(own)
    print_log(
        f"weights in the layout of {layout.title}: {len(own)} tensors became "
        f"{len(converted)} of OpenMMLab's layout",
        logger="current",
    )
    return {**converted, **others}
