"""What a backend of focal attention receives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from focal_mm.ops.common.backend import MapInputs
from focal_mm.ops.window.geometry import FocalGeometry


@dataclass(frozen=True)
class AttentionInputs(MapInputs):
    """Checked arguments of one call of focal attention.

    ``r_k`` is the region side of coarse level ``k``, the rest as in
    :class:`MapInputs`.

    Attributes:
        geometry: The sizes.
        window_bias: (h, s², s²).
        neighbor_bias: (h, s², num_neighbors), or None where nothing is expanded.
        pooled_biases: Per coarse level (h, s², r_k²).
    """

    geometry: FocalGeometry
    window_bias: Tensor
    neighbor_bias: Tensor | None
    pooled_biases: tuple[Tensor, ...]
