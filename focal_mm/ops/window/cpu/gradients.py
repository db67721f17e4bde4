"""Summing the gradients of keys and values over the windows that see a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from focal_mm.ops.window.cpu.chunks import Chunk
from focal_mm.ops.window.geometry import FocalGeometry


def _add_overlapping(
    total: Tensor, parts: Tensor, first: tuple[int, int], step: int
) -> None:
    """Add a grid of rectangles, one every ``step`` tokens, to what they cover.

    Args:
        total: (2, B, h, rows of tokens, columns of tokens, d).
        parts: (2, B, rows, cols, h, height, width, d).
        first: Row and column of the first rectangle's first token.
        step: From one rectangle to the next, along both sides.
    """
    grid, sides = parts.shape[2:4], parts.shape[5:7]
    # Overlapping rectangles cannot be added at once, their parts of a step can.
    steps = [
        side if count == 1 else step for count, side in zip(grid, sides, strict=True)
    ]
    both, image, head, row, col, channel = total.stride()
    for y in range(0, sides[0], steps[0]):
        for x in range(0, sides[1], steps[1]):
            rows, cols = slice(y, y + steps[0]), slice(x, x + steps[1])
            part = parts[..., rows, cols, :]
            covered = total.as_strided(
                part.shape,
                (both, image, step * row, step * col, head, row, col, channel),
                total.storage_offset() + (first[0] + y) * row + (first[1] + x) * col,
            )
            covered.add_(part)


def _merge_rows(parts: Tensor, step: int) -> Tensor:
    """Sum the rectangles of a column of windows: a grid of one row of higher ones.

    Args:
        parts: (2, B, rows, cols, h, height, width, d).
        step: Rows of tokens from one rectangle to the next.

    Returns:
        (2, B, 1, cols, h, (rows - 1) * step + height, width, d).
    """
    both, images, rows, cols, heads, height, *rest = parts.shape
    covered_rows = (rows - 1) * step + height
    merged = parts.new_zeros(both, images, cols, heads, covered_rows, *rest)
    for y in range(0, height, step):
        size = min(step, height - y)
        covered = merged.narrow(4, y, (rows - 1) * step + size).unfold(4, size, step)
        part = parts.narrow(5, y, size)
        covered.movedim((4, -1), (2, 5)).add_(part)
    return merged.unsqueeze(2)


class KeyGradients:
    """Gradients of keys and values of all levels.

    Args:
        geometry: The sizes.
        windows: Shape of the windows of queries, (B, rows, cols, h, s, s, d).
        dtype: That of the sums.
    """

    def __init__(
        self, geometry: FocalGeometry, windows: Sequence[int], dtype: torch.dtype
    ) -> None:
        self._margin = geometry.expand_size
        batch, rows, cols, heads, *_, channels = windows
        sizes = [(geometry.halo_size, geometry.window_size)]
        for level in range(geometry.coarse_levels):
            sizes.append((geometry.region_size(level), geometry.stride(level)))
        # Per map: sums of its keys' and values' gradients, (2, B, h, rows, cols, d),
        # with all that windows see around it; the side of the square that a window
        # sees; the step from one window's square to the next one's.
        self._levels: list[tuple[Tensor, int, int]] = []
        for side, step in sizes:
            sides = [(n - 1) * step + side for n in (rows, cols)]
            shape = 2, batch, heads, *sides, channels
            total = torch.zeros(shape, dtype=dtype, device="cpu")
            self._levels.append((total, side, step))

    def add(self, gradients: Tensor, chunk: Chunk) -> None:
        """Add those of a chunk, (2, n, h, keys, d): of keys, then of values."""
        start = 0
        for total, side, step in self._levels:
            parts = gradients.narrow(3, start, side * side)
            parts = parts.unflatten(3, (side, side)).unflatten(1, chunk.shape)
            if side > 2 * step and chunk.shape[1] > 1:
                # As many additions for each row of tokens, and fewer tokens to add.
                parts = _merge_rows(parts, step)
            first = chunk.rows.start * step, chunk.cols.start * step
            _add_overlapping(total[:, chunk.images], parts, first, step)
            start += side * side

    def finish(self, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
        """Gradients of the keys of each level, and of the values: (B, H, W, h, d).

        What lay around a map is folded back (fine keys) or dropped (pooled ones, whose
        surroundings are zeros).
        """
        (fine, *_), *coarse = self._levels
        margin = self._margin
        if margin:
            for dim in (3, 4):
                size = fine.shape[dim]
                first = fine.narrow(dim, margin, margin)
                first.add_(fine.narrow(dim, size - margin, margin))
                last = fine.narrow(dim, size - 2 * margin, margin)
                last.add_(fine.narrow(dim, 0, margin))
            fine = fine[..., margin:-margin, margin:-margin, :]
        maps = [fine]
        for total, side, step in coarse:
            pad = (side - step) // 2
            rows, cols = (slice(pad, size - pad) for size in total.shape[3:5])
            maps.append(total[:, :, :, rows, cols])
        maps = [total.permute(0, 1, 3, 4, 2, 5).to(dtype) for total in maps]
        return [total[0] for total in maps], [total[1] for total in maps]
