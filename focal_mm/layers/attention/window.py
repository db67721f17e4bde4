"""Focal attention: keys in fixed regions around each window."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from focal_mm.layers.attention.base import MultiLevelAttention
from focal_mm.ops import FocalGeometry, focal_attention
from focal_mm.ops.common.dispatch import check_choice
from focal_mm.ops.window.geometry import relative_index


class FocalAttention(MultiLevelAttention):
    """Focal attention (paper, equation 3).

    The relative position biases (equation 2) are tables. Arguments as in
    :class:`MultiLevelAttention`.
    """

    bias_name = "relative_position_bias_table"
    max_focal_levels = 3
    options: ClassVar[Mapping[str, Any]] = {
        "expand_sizes": (3, 3, 3, 0),
        "expand_layer": "all",
        "focal_windows": (7, 5, 3, 1),
        "use_shift": False,
    }
    geometry: FocalGeometry

    @staticmethod
    def block_geometry(
        block: int,
        window_size: int,
        coarse_levels: int,
        *,
        expand_sizes: int,
        expand_layer: str,
        focal_windows: int,
        use_shift: bool,
    ) -> FocalGeometry:
        check_choice("expand_layer", expand_layer, ("all", "even", "odd"))
        odd = block % 2 == 1
        geometry = FocalGeometry(
            window_size,
            expand_sizes,
            focal_windows,
            coarse_levels,
            shift_size=window_size // 2 if use_shift and odd else 0,
        )
        if expand_layer == "all" or odd == (expand_layer == "even"):
            return geometry
        return dataclasses.replace(geometry, expand_size=0)

    def _make_biases(self) -> None:
        geometry, heads = self.geometry, self.num_heads
        size = geometry.window_size
        self._unshifted = dataclasses.replace(geometry, shift_size=0)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * size - 1) ** 2, heads)
        )
        if geometry.expand_size:
            self.relative_position_bias_table_to_neighbors = nn.Parameter(
                torch.empty(1, heads, geometry.window_area, geometry.num_neighbors)
            )
            nn.init.trunc_normal_(
                self.relative_position_bias_table_to_neighbors, std=0.02
            )
        self.relative_position_bias_table_to_windows = nn.ParameterList(
            nn.Parameter(
                torch.empty(heads, (size + geometry.region_size(level) - 1) ** 2)
            )
            for level in range(geometry.coarse_levels)
        )
        for table in self.relative_position_bias_table_to_windows:
            nn.init.trunc_normal_(table, std=0.02)

    def _window_bias(self) -> Tensor:
        table, size = self.relative_position_bias_table, self.geometry.window_size
        index = relative_index(size, size, table.device)
        return table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1)

    def _neighbor_bias(self) -> Tensor | None:
        if not self.geometry.expand_size:
            return None
        return self.relative_position_bias_table_to_neighbors.squeeze(0)

    def _pooled_biases(self) -> list[Tensor]:
        biases = []
        for level, table in enumerate(self.relative_position_bias_table_to_windows):
            region = self.geometry.region_size(level)
            index = relative_index(self.geometry.window_size, region, table.device)
            biases.append(table[:, index.flatten()].unflatten(1, index.shape))
        return biases

    def _attend(self, shifted: bool, *maps: Tensor | Sequence[Tensor]) -> Tensor:
        return focal_attention(
            *maps,
            self._window_bias(),
            self._neighbor_bias(),
            self._pooled_biases(),
            geometry=self.geometry if shifted else self._unshifted,
            **self._settings,
        )
