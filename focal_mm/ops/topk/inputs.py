"""What a backend of top-K attention receives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from focal_mm.ops.common.backend import MapInputs
from focal_mm.ops.topk.geometry import Level, TopKGeometry


@dataclass(frozen=True)
class TopKInputs(MapInputs):
    """Checked arguments of :func:`focal_mm.ops.topk_attention`, which says what they
    are.
    """

    geometry: TopKGeometry
    bias_tables: tuple[Tensor, ...]

    @property
    def levels(self) -> tuple[Level, ...]:
        """The maps that keys are taken from, the fine one first."""
        return self.geometry.levels(*self.grid)
