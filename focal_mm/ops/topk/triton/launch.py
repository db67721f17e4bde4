"""What the kernels read besides queries, keys and values: bias tables and lists."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.common.triton.launch import Call
from focal_mm.ops.common.triton.settings import Launch
from focal_mm.ops.topk.geometry import Level, TopKGeometry, reach
from focal_mm.ops.topk.triton.keys import TOPK_KEYS
from focal_mm.ops.topk.triton.tables import (
    displacement_visits,
    token_visits,
    window_keys,
)


class TopKCall(Call):
    """Top-K attention; biases are the levels' tables (h, R, C)."""

    functions = TOPK_KEYS
    make_geometry = TopKGeometry

    @property
    def levels(self) -> tuple[Level, ...]:
        """The maps that keys are taken from."""
        return self.geometry.levels(*self.grid)

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of a window's lists."""
        return tuple(level.num_keys for level in self.levels)

    @property
    def specs(self) -> tuple[tuple[int, ...], ...]:
        """The lists say it all."""
        return ((),) * len(self.keys)

    def packed(self) -> tuple[Tensor, ...]:
        """The tables, contiguous."""
        return tuple(table.contiguous() for table in self.biases)

    def window_lists(self, number: int) -> tuple[Tensor, ...]:
        """The window's tokens and their places in the table."""
        size, device = self.geometry.window_size, self.query.device
        return (window_keys(self.levels[number], size, device),)

    def for_keys(
        self, number: int, bias: Tensor, launch: Launch
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The table, and the windows that have the tokens of a rectangle as keys."""
        tile = (launch.tile_rows, launch.tile_cols)
        size, device = self.geometry.window_size, bias.device
        return bias, tuple(token_visits(self.levels[number], size, tile, device))

    def for_bias(self, number: int, block: int) -> tuple[int, tuple[Tensor, ...]]:
        """Tiles of displacements, the windows that have keys there, their places."""
        size, device = self.geometry.window_size, self.query.device
        level = self.levels[number]
        visits, _, places = displacement_visits(level, size, block, device)
        return len(places) // block, (*visits, places)

    def unpack(self, number: int, block: int, grad: Tensor) -> Tensor:
        """Each displacement's s × s square of the table; the fine level's overlap."""
        size, level = self.geometry.window_size, self.levels[number]
        order = displacement_visits(level, size, block, grad.device).order
        rows, cols = (2 * most + 1 for most in reach(level))
        squares = grad.new_zeros((*grad.shape[:2], rows * cols))
        squares.index_copy_(2, order, grad[..., : len(order)])
        sides = self.biases[number].shape[1:]
        return F.fold(squares, sides, kernel_size=size, stride=level.step).squeeze(1)
