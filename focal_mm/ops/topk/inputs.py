"""What a backend of top-K attention receives."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from focal_mm.ops.common.backend import MapInputs
from focal_mm.ops.topk.geometry import Level, TopKGeometry


@dataclass(frozen=True)
class TopKInputs(MapInputs):
    """Checked arguments of one call of top-K attention.

    Attributes:
        geometry: The sizes.
        bias_tables: Per level, the fine one first, (h, *bias_table_size): the bias of
            each query-key offset.
    """

    geometry: TopKGeometry
    bias_tables: tuple[Tensor, ...]

    @property
    def levels(self) -> tuple[Level, ...]:
        """The maps that keys are taken from, the fine one first."""
        return self.geometry.levels(*self.grid)
