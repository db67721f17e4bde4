"""Which keys a window of queries sees: sizes, indices and masks.

Everything here is a pure function of integers. Tensors are built once per
(sizes, device) and shared by all calls, so callers must not write to them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from focal_mm.ops.common.dispatch import check_range
from focal_mm.ops.common.pyramid import WindowPyramid, at_least_float32, cached_by_size

OUTSIDE_LOGIT = -100.0
"""Added to the logit of a key that a query must not see.

The released checkpoints were trained with this value instead of minus infinity.
"""

_NO_KEY = -1e30
"""Stands for "no key here" in a float32 bias; a finite minus infinity."""

ROLLS = ((-1, -1), (-1, 1), (1, -1), (1, 1))
"""Signs of the four rolls of the key map over (rows, columns), in the order in which
the released tables list them: top-left, top-right, bottom-left, bottom-right."""


@dataclass(frozen=True)
class FocalGeometry(WindowPyramid):
    """The sizes that decide which keys a window of queries sees.

    Args:
        window_size: Side of a window of queries, in tokens (paper: ``s_p``).
        expand_size: Tokens by which the fine region exceeds the window on each
            side; 0 for the window alone.
        focal_window: Side of the region of pooled tokens at the first coarse level
            (paper: ``s_r``); odd.
        coarse_levels: Number of coarse levels (focal levels minus one).
        shift_size: The map is rolled by minus this before windows are cut.

    Raises:
        ValueError: If a size is out of its range.
    """

    window_size: int
    expand_size: int = 0
    focal_window: int = 1
    coarse_levels: int = 0
    shift_size: int = 0

    def __post_init__(self) -> None:
        check_range("window_size", self.window_size, 1)
        check_range("expand_size", self.expand_size, 0, self.window_size)
        if self.focal_window < 1 or self.focal_window % 2 == 0:
            raise ValueError(
                "focal_window must be odd and at least 1 (the region is centred on "
                f"the window), got {self.focal_window}"
            )
        # Sub-windows have at least one token.
        most_levels = self.window_size.bit_length()
        check_range("coarse_levels", self.coarse_levels, 0, most_levels)
        check_range("shift_size", self.shift_size, 0, self.window_size - 1)

    @property
    def num_neighbors(self) -> int:
        """Keys outside the window in the four rolled maps together."""
        inner = (self.window_size - self.expand_size) ** 2
        return 4 * (self.window_area - inner) if self.expand_size else 0

    @property
    def halo_size(self) -> int:
        """Side of the fine region: the window and ``expand_size`` tokens around it."""
        return self.window_size + 2 * self.expand_size

    def region_size(self, level: int) -> int:
        """Side of the region of pooled tokens at coarse level ``level``."""
        return self.focal_window + self.stride(level) - 1


@cached_by_size
def relative_index(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Entries of a table of (query - key) offsets, row by row, for each pair.

    Args:
        num_queries: Side of the square of queries.
        num_keys: Side of the square of keys.
        device: Where the result is put.

    Returns:
        int64, (num_queries², num_keys²).
    """
    offset = torch.arange(num_queries)[:, None] - torch.arange(num_keys)[None, :]
    offset = offset + num_keys - 1
    side = num_queries + num_keys - 1
    index = offset[:, None, :, None] * side + offset[None, :, None, :]
    return index.reshape(num_queries**2, num_keys**2).to(device)


# Compilers take the two lists as constants: tracing their loops takes minutes.
@torch.compiler.assume_constant_result
def _neighbors(window_size: int, expand_size: int) -> list[tuple[int, int, int]]:
    """Index, row and column of each rolled key that falls outside the window.

    The index counts the tokens of the four rolled windows in the released order; row
    and column count from the window's first token.
    """
    tokens = range(window_size)
    rolled = [
        (row - sign_row * expand_size, col - sign_col * expand_size)
        for sign_row, sign_col in ROLLS
        for row in tokens
        for col in tokens
    ]
    return [
        (index, row, col)
        for index, (row, col) in enumerate(rolled)
        if row not in tokens or col not in tokens
    ]


@torch.compiler.assume_constant_result
def _halo_keys(window_size: int, expand_size: int) -> list[list[int]]:
    """For each token of the halo, the keys of the released order that it stands for."""
    keys = [(row, col) for row in range(window_size) for col in range(window_size)]
    keys += [(row, col) for _, row, col in _neighbors(window_size, expand_size)]
    side = window_size + 2 * expand_size
    table: list[list[int]] = [[] for _ in range(side**2)]
    for key, (row, col) in enumerate(keys):
        table[(row + expand_size) * side + col + expand_size].append(key)
    return table


@cached_by_size
def neighbor_index(window_size: int, expand_size: int, device: torch.device) -> Tensor:
    """The rolled keys that fall outside the central window.

    Returns:
        int64, (num_neighbors,): indices into four rolled windows of s² tokens
        laid end to end in the order of :data:`ROLLS`.
    """
    index = [index for index, *_ in _neighbors(window_size, expand_size)]
    return torch.tensor(index, dtype=torch.int64, device=device)


@cached_by_size
def halo_sources(window_size: int, expand_size: int, device: torch.device) -> Tensor:
    """For each token of the halo, the keys of the released order that it stands for.

    The released order lists the window's tokens, then the neighbours; a token of the
    halo may stand there more than once, and with ``2 * expand_size > window_size``
    some stand nowhere.

    Returns:
        int64, ((s + 2e)², most copies of one token): indices into the released
        order; missing entries hold the number of keys.
    """
    table = _halo_keys(window_size, expand_size)
    lengths = [len(keys) for keys in table]
    copies, total = max(lengths), sum(lengths)
    table = [keys + [total] * (copies - len(keys)) for keys in table]
    return torch.tensor(table, dtype=torch.int64, device=device)


@cached_by_size
def halo_copies(
    window_size: int, expand_size: int, copy: int, device: torch.device
) -> Tensor:
    """Tokens of the halo that stand for a key number ``copy`` (from 0).

    Returns:
        int64, (2, tokens): the tokens, and that key of each in the released order.
    """
    table = enumerate(_halo_keys(window_size, expand_size))
    pairs = [(token, keys[copy]) for token, keys in table if len(keys) > copy]
    return torch.tensor(pairs, dtype=torch.int64, device=device).t().contiguous()


def merge_halo_bias(
    window: Tensor, neighbors: Tensor, window_size: int, expand_size: int
) -> Tensor:
    """Bias of the halo's tokens: equal keys become one key.

    Two equal keys with biases b1 and b2 weigh as much as one with
    ``log(exp b1 + exp b2)``.

    Args:
        window: (heads, queries, s²).
        neighbors: (heads, queries, num_neighbors).
        window_size: Side of a window s.
        expand_size: Tokens by which the halo exceeds it; not 0.

    Returns:
        (heads, queries, halo_size²), at least float32.
    """
    released = at_least_float32(torch.cat((window, neighbors), dim=-1))
    released = torch.nn.functional.pad(released, (0, 1), value=_NO_KEY)
    sources = halo_sources(window_size, expand_size, window.device)
    merged = released.index_select(-1, sources[:, 0])
    for copy in range(1, sources.shape[1]):
        # Few tokens: with window 7 and expansion 3, 12 of 169.
        tokens, keys = halo_copies(window_size, expand_size, copy, window.device)
        both = torch.logaddexp(
            merged.index_select(-1, tokens), released.index_select(-1, keys)
        )
        # Not index_copy: the compiler's backward pass does not get over it.
        merged = merged.scatter(-1, tokens.expand_as(both), both)
    return merged


def _outside(num_windows: int, stride: int, region: int) -> Tensor:
    """Bool (num_windows, region): which rows of each window's region lie outside."""
    first = torch.arange(num_windows)[:, None] * stride - (region - stride) // 2
    row = first + torch.arange(region)[None, :]
    return (row < 0) | (row >= num_windows * stride)


@cached_by_size
def region_mask(
    rows: int, cols: int, stride: int, region_size: int, device: torch.device
) -> Tensor:
    """Logits added to the pooled keys of each window: 0, or -100 outside the map.

    Args:
        rows: Rows of windows of the map.
        cols: Columns of windows of the map.
        stride: Sub-windows per window side.
        region_size: Side of the region r_k.
        device: Where the result is put.

    Returns:
        float32, (rows * cols, region_size²).
    """
    row_out, col_out = (_outside(n, stride, region_size) for n in (rows, cols))
    outside = row_out[:, None, :, None] | col_out[None, :, None, :]
    mask = torch.zeros(outside.shape).masked_fill_(outside, OUTSIDE_LOGIT)
    return mask.reshape(-1, region_size**2).to(device)


@cached_by_size
def shift_mask(
    rows: int, cols: int, window_size: int, shift_size: int, device: torch.device
) -> Tensor:
    """Logits added to a window's own keys after a shift: 0, or -100 across the border.

    Args:
        rows: Rows of windows of the map.
        cols: Columns of windows of the map.
        window_size: Side of a window s.
        shift_size: The map was rolled by minus this.
        device: Where the result is put.

    Returns:
        float32, (rows * cols, s², s²).
    """

    def part(count: int) -> Tensor:
        """Which of three bands each token of a rolled side of windows is in."""
        token = torch.arange(count * window_size)
        last_window = token >= (count - 1) * window_size
        wrapped = token >= count * window_size - shift_size
        return (last_window.int() + wrapped.int()).view(count, window_size)

    band = (part(rows) * 3)[:, None, :, None] + part(cols)[None, :, None, :]
    band = band.reshape(-1, window_size**2)
    differs = band[:, :, None] != band[:, None, :]
    mask = torch.zeros(differs.shape).masked_fill_(differs, OUTSIDE_LOGIT)
    return mask.to(device)
