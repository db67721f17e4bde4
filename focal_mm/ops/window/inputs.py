"""What a backend of focal attention receives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from focal_mm.ops.common.backend import MapInputs
from focal_mm.ops.window.geometry import FocalGeometry


@dataclass(frozen=True)
class AttentionInputs(MapInputs):
    """Checked arguments of :func:`focal_mm.ops.focal_attention`, which says what
    they are.
    """

    geometry: FocalGeometry
    window_bias: Tensor
    neighbor_bias: Tensor | None
    pooled_biases: tuple[Tensor, ...]
