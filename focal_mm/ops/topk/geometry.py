"""Which tokens are closest to a window of queries: sizes and indices.

As in :mod:`focal_mm.ops.window.geometry`, everything is a pure function of integers,
and the tensors are shared by all calls: callers must not write to them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from focal_mm.ops.common.dispatch import check_range
from focal_mm.ops.common.pyramid import WindowPyramid, cached_by_size


class Level(NamedTuple):
    """A map of tokens, seen from the windows of queries.

    Attributes:
        rows: Rows of windows.
        cols: Columns of windows.
        per_window: Tokens of this map along a window's side: the window size on the
            fine map, 1 on the pooled one.
        step: Tokens of the fine map from one token of this map to the next.
        topk: Keys wanted of it.
    """

    rows: int
    cols: int
    per_window: int
    step: int
    topk: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.rows * self.per_window, self.cols * self.per_window

    @property
    def num_tokens(self) -> int:
        """Tokens of the map."""
        return self.shape[0] * self.shape[1]

    @property
    def num_keys(self) -> int:
        """Keys that each window takes: all tokens of a map of fewer than ``topk``."""
        return min(self.topk, self.num_tokens)

    def centres(self, windows: Tensor) -> Tensor:
        """Where the centre of window i of a side stands on this map."""
        return windows * self.per_window + self.per_window // 2


@dataclass(frozen=True)
class TopKGeometry(WindowPyramid):
    """The sizes that decide which keys a window sees by distance (Focal-fast).

    On every level, a window of queries sees the ``topk`` tokens of the whole map that
    are closest to its centre.

    Args:
        window_size: Side of a window of queries, in tokens.
        topk: Keys of each level; all tokens of a map that has fewer.
        coarse_levels: Number of coarse levels: 0, or 1 for the map that has one
            pooled token for each window.

    Raises:
        ValueError: If a size is out of its range.
    """

    window_size: int
    topk: int = 128
    coarse_levels: int = 0

    def __post_init__(self) -> None:
        check_range("window_size", self.window_size, 1)
        check_range("topk", self.topk, 1)
        # Only the map of one pooled token per window has keys by distance.
        check_range("coarse_levels", self.coarse_levels, 0, 1)

    def levels(self, rows: int, cols: int) -> tuple[Level, ...]:
        """The maps that ``rows * cols`` windows take keys from, the fine one first."""
        size = self.window_size
        fine = Level(rows, cols, size, 1, self.topk)
        pooled = Level(rows, cols, 1, size, self.topk)
        return (fine, pooled) if self.coarse_levels else (fine,)


_SIZES = 512
"""Sizes of maps whose closest tokens are kept: a search takes up to a second (a map of
200 × 333 tokens), and multi-scale training sees hundreds of sizes."""


@functools.lru_cache(maxsize=_SIZES)
def _search(level: Level) -> Tensor:
    """int32, (windows, num_keys): each window's closest tokens, row-major indices.

    Of tokens at the same distance as the last one, some are taken and some not. The
    released checkpoints were trained with the choice of ``torch.topk`` on a CPU; it
    depends on all values of a row, and not on the other rows. Squares are exact in
    float32 and order as distances do.
    """
    rows, cols = (torch.arange(side) for side in level.shape)
    to_cols = (level.centres(torch.arange(level.cols))[:, None] - cols) ** 2
    closest = []
    # Row by row of windows: all distances of a large map would take gigabytes.
    for row in level.centres(torch.arange(level.rows)):
        squares = (row - rows)[None, :, None] ** 2 + to_cols[:, None, :]
        nearness = -squares.flatten(1).float()
        indices = torch.topk(nearness, level.num_keys, dim=1).indices
        closest.append(indices.to(torch.int32))
    return torch.cat(closest)


def _displacements(level: Level) -> tuple[Tensor, Tensor]:
    """int64, (windows, num_keys) each: rows and columns from key to window centre."""
    index = _search(level).long()
    window = torch.arange(level.rows * level.cols)[:, None]
    width = level.shape[1]
    return (
        level.centres(window // level.cols) - index // width,
        level.centres(window % level.cols) - index % width,
    )


@functools.lru_cache(maxsize=_SIZES)
def _reach(level: Level) -> tuple[int, int]:
    with torch.inference_mode(False):
        rows, cols = _displacements(level)
        return int(rows.abs().max()), int(cols.abs().max())


@torch.compiler.assume_constant_result
def reach(level: Level) -> tuple[int, int]:
    """Largest row and column distance between a window's centre and its keys."""
    return _reach(level)


def bias_table_size(level: Level, window_size: int) -> tuple[int, int]:
    """Rows and columns of a table with one entry for each query-key offset."""
    rows, cols = (2 * most * level.step + window_size for most in reach(level))
    return rows, cols


@cached_by_size
def offset_grid(level: Level, window_size: int, device: torch.device) -> Tensor:
    """Offsets query - key, in tokens of the fine map, that a bias table is made for.

    Returns:
        float32, (*bias_table_size, 2): row and column offset. A query of the window
        stands at ``-(s // 2) … s - 1 - s // 2`` from the window's centre.
    """
    sides = [
        torch.arange(size) - (size - window_size) // 2 - window_size // 2
        for size in bias_table_size(level, window_size)
    ]
    grid = torch.stack(torch.meshgrid(*sides, indexing="ij"), dim=-1)
    return grid.float().to(device)


@functools.lru_cache(maxsize=64)
def _closest_keys(levels: tuple[Level, ...], device: torch.device) -> Tensor:
    keys, displacements = [], []
    first_token = first_displacement = 0
    with torch.inference_mode(False):
        for level in levels:
            keys.append(_search(level).long() + first_token)
            first_token += level.num_tokens
            (row, col), (most_rows, most_cols) = _displacements(level), reach(level)
            width = 2 * most_cols + 1
            number = (row + most_rows) * width + col + most_cols
            displacements.append(number + first_displacement)
            first_displacement += (2 * most_rows + 1) * width
        both = torch.stack((torch.cat(keys, dim=1), torch.cat(displacements, dim=1)))
        return both.to(device)


def _unflatten(sizes: Sequence[int]) -> tuple[Level, ...]:
    fields = len(Level._fields)
    starts = range(0, len(sizes), fields)
    return tuple(Level(*sizes[start : start + fields]) for start in starts)


# An operator of its own: a compiler would otherwise trace the search for the closest
# tokens and repeat it in every forward.
@torch.library.custom_op(
    "focal_mm::closest_keys",
    mutates_args=(),
    schema="(int[] sizes, Device device) -> Tensor",
)
def _closest_keys_op(sizes: Sequence[int], device: torch.device) -> Tensor:
    # A compiler may write to the memory of an operator's result.
    return _closest_keys(_unflatten(sizes), device).clone()


@_closest_keys_op.register_fake
def _(sizes: Sequence[int], device: torch.device) -> Tensor:
    levels = _unflatten(sizes)
    windows = levels[0].rows * levels[0].cols
    keys = sum(level.num_keys for level in levels)
    return torch.empty((2, windows, keys), dtype=torch.int64, device=device)


def closest_keys(levels: tuple[Level, ...], device: torch.device) -> Tensor:
    """The keys of each window, and how they lie to it.

    Args:
        levels: The maps that keys are taken from.
        device: Where the result is put.

    Returns:
        int64, (2, windows, keys of all levels). First: tokens of all levels laid end to
        end. Second: the displacement (window centre - key) of each; those from
        ``-reach`` to ``reach`` of both axes are numbered row by row, level after level.
    """
    if torch.compiler.is_compiling():
        return _closest_keys_op([size for level in levels for size in level], device)
    return _closest_keys(levels, device)
