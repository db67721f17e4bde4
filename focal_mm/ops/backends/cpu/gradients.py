"""Summing the gradients of keys and values over the windows that see a token."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from focal_mm.ops.backends.cpu.chunks import Chunk
from focal_mm.ops.geometry import FocalGeometry


def _squares(
    total: Tensor,
    grid: tuple[int, int],
    corner: tuple[int, int],
    sides: tuple[int, int],
    step: int,
) -> Tensor:
    """Rectangles of a map, one every ``step`` tokens both ways, as a view.

    Args:
        total: (2, images, h, rows of tokens, columns of tokens, d).
        grid: How many there are, (rows, columns).
        corner: First row and column of the first one.
        sides: Rows and columns of each; at most ``step``, so that none overlap.
        step: From one to the next.

    Returns:
        (2, images, rows, cols, h, side, side, d).
    """
    both, images, heads, _, _, channels = total.shape
    s = total.stride()
    return total.as_strided(
        (both, images, *grid, heads, *sides, channels),
        (s[0], s[1], step * s[3], step * s[4], s[2], s[3], s[4], s[5]),
        total.storage_offset() + corner[0] * s[3] + corner[1] * s[4],
    )


class KeyGradients:
    """Gradients of keys and values of all levels.

    Args:
        geometry: The sizes.
        grid: Batch, rows and columns of windows.
        like: Has the dtype.
        shape: Heads and channels.
    """

    def __init__(
        self,
        geometry: FocalGeometry,
        grid: tuple[int, int, int],
        like: Tensor,
        shape: tuple[int, int],
    ) -> None:
        self._expand = geometry.expand_size
        levels = range(geometry.coarse_levels)
        self._sides = [geometry.halo_size, *map(geometry.region_size, levels)]
        self._steps = [geometry.window_size, *map(geometry.stride, levels)]
        (batch, *windows), (heads, channels) = grid, shape
        # Maps with all that windows see around them, heads first.
        self._maps = [
            like.new_zeros(
                2, batch, heads, *((n - 1) * step + side for n in windows), channels
            )
            for side, step in zip(self._sides, self._steps, strict=True)
        ]

    def add(self, gradients: Tensor, chunk: Chunk) -> None:
        """Add those of a chunk, (2, n, h, keys, d): of keys, then of values."""
        start = 0
        for total, side, step in zip(self._maps, self._sides, self._steps, strict=True):
            part = gradients.narrow(3, start, side * side)
            part = part.unflatten(3, (side, side)).unflatten(1, chunk.shape)
            total = total[:, chunk.images]
            first = chunk.rows.start * step, chunk.cols.start * step
            if side > 2 * step and chunk.shape[1] > 1:
                part = self._merge_rows(part, step)
            _add_overlapping(total, part, first, step)
            start += side * side

    @staticmethod
    def _merge_rows(part: Tensor, step: int) -> Tensor:
        """Sum over the rows of windows: a grid of one row, of taller squares."""
        both, images, rows, cols, heads, side, width, channels = part.shape
        height = (rows - 1) * step + side
        bands = part.new_zeros(both, images, 1, cols, heads, height, width, channels)
        s = bands.stride()
        for y in range(0, side, step):
            size = min(step, side - y)
            covered = bands.as_strided(
                (both, images, rows, cols, heads, size, width, channels),
                (s[0], s[1], step * s[5], *s[3:]),
                bands.storage_offset() + y * s[5],
            )
            covered.add_(part.narrow(5, y, size))
        return bands

    def finish(self, dtype: torch.dtype) -> list[list[Tensor]]:
        """The sums as (B, H, W, h, d) of each level, of keys and of values: what lay
        around a map is folded back (fine keys) or dropped (pooled ones, whose
        surroundings are zeros).
        """
        fine, *coarse = self._maps
        margin = self._expand
        if margin:
            for dim in (3, 4):
                size = fine.shape[dim]
                first = fine.narrow(dim, margin, margin)
                first.add_(fine.narrow(dim, size - margin, margin))
                last = fine.narrow(dim, size - 2 * margin, margin)
                last.add_(fine.narrow(dim, 0, margin))
            fine = fine[..., margin:-margin, margin:-margin, :]
        gradients = [fine]
        for total, side, step in zip(
            coarse, self._sides[1:], self._steps[1:], strict=True
        ):
            pad = (side - step) // 2
            rows, cols = (slice(pad, size - pad) for size in total.shape[3:5])
            gradients.append(total[:, :, :, rows, cols])
        gradients = [g.permute(0, 1, 3, 4, 2, 5).to(dtype) for g in gradients]
        return [[g[which] for g in gradients] for which in range(2)]


def _add_overlapping(
    total: Tensor, parts: Tensor, first: tuple[int, int], step: int
) -> None:
    grid, sides = parts.shape[2:4], parts.shape[5:7]
    # a grid of one row has no overlap in rows
    steps = [side if count == 1 else step for count, side in zip(grid, sides)]
    for y in range(0, sides[0], steps[0]):
        height = min(steps[0], sides[0] - y)
        for x in range(0, sides[1], steps[1]):
            width = min(steps[1], sides[1] - x)
            corner = first[0] + y, first[1] + x
            covered = _squares(total, grid, corner, (height, width), step)
            covered.add_(parts[..., y : y + height, x : x + width, :])
