"""Top-K attention: the keys closest to each window (Focal-fast)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from focal_mm.layers.attention.base import MultiLevelAttention
from focal_mm.ops import TopKGeometry, topk_attention
from focal_mm.ops.topk.geometry import offset_grid


def _dtype_of(mlp: nn.Module) -> torch.dtype:
    """What a module of linear layers takes; float32 for one that is quantised."""
    for parameter in mlp.parameters():
        if parameter.is_floating_point():
            return parameter.dtype
    return torch.float32


class TopKAttention(MultiLevelAttention):
    """Top-K attention.

    The relative position bias of a level is a small MLP of the query-key offset in
    tokens, so its parameters do not depend on any size. It is evaluated once for each
    offset that occurs on the map, not for each pair. Arguments as in
    :class:`MultiLevelAttention`.
    """

    bias_name = "coord2rpb_all"
    max_focal_levels = 2
    options: ClassVar[Mapping[str, Any]] = {"topk": 128}
    geometry: TopKGeometry

    @staticmethod
    def block_geometry(
        block: int, window_size: int, coarse_levels: int, *, topk: int
    ) -> TopKGeometry:
        return TopKGeometry(window_size, topk, coarse_levels)

    def _make_biases(self) -> None:
        self.coord2rpb_all = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2, self.head_dims),
                nn.ReLU(),
                nn.Linear(self.head_dims, self.num_heads),
            )
            for _ in range(self.geometry.coarse_levels + 1)
        )

    def _bias_tables(self, rows: int, cols: int, device: torch.device) -> list[Tensor]:
        """Per level (h, R, C), the bias of each offset for a grid of windows."""
        tables = []
        levels = self.geometry.levels(rows, cols)
        # Offsets of hundreds of tokens are not exact in half precision. The meta
        # device has no autocast to switch off.
        kind = "cpu" if device.type == "meta" else device.type
        with torch.autocast(kind, enabled=False):
            for level, mlp in zip(levels, self.coord2rpb_all, strict=True):
                offsets = offset_grid(level, self.geometry.window_size, device)
                tables.append(mlp(offsets.to(_dtype_of(mlp))).permute(2, 0, 1))
        return tables

    def _attend(self, shifted: bool, *maps: Tensor | Sequence[Tensor]) -> Tensor:
        size, (query, *_) = self.geometry.window_size, maps
        rows, cols = (side // size for side in query.shape[1:3])
        return topk_attention(
            *maps,
            self._bias_tables(rows, cols, query.device),
            geometry=self.geometry,
            **self._settings,
        )
