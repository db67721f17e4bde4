"""Which keys a window sees, and what is added to their logits, on the device.

All groups follow one formula. Window ``(i, j)`` sees a square of side SIZE whose first
row is ``i * STEP - PAD``; a key's number in that square is ``n = row * SIZE + column``:

=============  ==========  ==============  ============  ====================
keys           STEP        PAD             SIZE          past the map's border
=============  ==========  ==============  ============  ====================
fine (G = 0)   s           e               s + 2e        wraps around
coarse k       2^k         (r - 1) / 2     r + 2^k - 1   zero key, logit -100
=============  ==========  ==============  ============  ====================

A group's spec is (PAD, SIZE, the map's shift where there is one). Its bias is packed:
see :mod:`focal_mm.ops.window.triton.launch`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.common.triton.kernels import KeyFunctions
from focal_mm.ops.common.triton.tiles import LOG2_E
from focal_mm.ops.window.geometry import OUTSIDE_LOGIT

_OUTSIDE: tl.constexpr = tl.constexpr(OUTSIDE_LOGIT * LOG2_E)


@triton.jit
def _wrap(position, size):
    """A position at most ``size`` past either end of a side, brought back into it."""
    position = tl.where(position < 0, position + size, position)
    return tl.where(position >= size, position - size, position)


@triton.jit
def _hidden_by_shift(m, n, i, j, rows, cols, META: tl.constexpr):
    """Whether the border of the unrolled map lies between query m and fine key n.

    It cuts the last row and the last column of windows, and counts for a window's
    own keys only. ``m`` and ``n`` broadcast.
    """
    S: tl.constexpr = META.S
    PAD: tl.constexpr = META.SPECS[0][0]
    SIZE: tl.constexpr = META.SPECS[0][1]
    SHIFT: tl.constexpr = META.SPECS[0][2]
    row = n // SIZE - PAD
    col = n % SIZE - PAD
    own = (row >= 0) & (row < S) & (col >= 0) & (col < S)
    rows_differ = (m // S >= S - SHIFT) != (row >= S - SHIFT)
    cols_differ = (m % S >= S - SHIFT) != (col >= S - SHIFT)
    return own & ((i == rows - 1) & rows_differ | (j == cols - 1) & cols_differ)


@triton.jit
def _load_bias(group, m, n, head, META: tl.constexpr):
    """Bias of queries m and keys n, (m, n)."""
    row = tl.minimum(m, META.S * META.S - 1) * group.bias_strides[1]
    pointer = group.bias + head * group.bias_strides[0] + row[:, None] + n[None, :]
    return tl.load(pointer).to(tl.float32)


@triton.jit
def _see(bias, m, n, i, j, rows, cols, META: tl.constexpr, G: tl.constexpr):
    """Where window (i, j) has its keys n; the bias (m, n) with what it must not see."""
    STEP: tl.constexpr = META.STEPS[G]
    PAD: tl.constexpr = META.SPECS[G][0]
    SIZE: tl.constexpr = META.SPECS[G][1]
    y = i * STEP - PAD + n // SIZE
    x = j * STEP - PAD + n % SIZE
    exists = n < SIZE * SIZE
    if G == 0:
        y = _wrap(y, rows * STEP)
        x = _wrap(x, cols * STEP)
        if META.SPECS[0][2] > 0:
            hidden = _hidden_by_shift(m[:, None], n[None, :], i, j, rows, cols, META)
            bias += tl.where(hidden, _OUTSIDE, 0.0)
    else:
        exists &= (y >= 0) & (y < rows * STEP) & (x >= 0) & (x < cols * STEP)
        bias += tl.where(exists, 0.0, _OUTSIDE)[None, :]
    return y, x, exists, bias


@triton.jit
def _count(group, META: tl.constexpr, G: tl.constexpr):
    return META.SPECS[G][1] * META.SPECS[G][1]


@triton.jit
def _keys(group, n, m, i, j, head, rows, cols, META: tl.constexpr, G: tl.constexpr):
    bias = _load_bias(group, m, n, head, META)
    return _see(bias, m, n, i, j, rows, cols, META, G)


@triton.jit
def _range(first, last, rows, META: tl.constexpr, G: tl.constexpr):
    """First and number of the windows of a side that see any of ``first … last``.

    Window i sees the positions p with 0 <= p - i * STEP + PAD < SIZE. Divided are
    non-negative numbers only: rounding of negative ones is a matter of taste. Where
    fine keys wrap around, windows are counted on beyond the map's border.
    """
    STEP: tl.constexpr = META.STEPS[G]
    PAD: tl.constexpr = META.SPECS[G][0]
    SIZE: tl.constexpr = META.SPECS[G][1]
    low = (first + PAD - SIZE + STEP + SIZE * STEP) // STEP - SIZE
    high = (tl.minimum(last, rows * STEP - 1) + PAD) // STEP + 1
    if G > 0:
        low = tl.maximum(low, 0)
        high = tl.minimum(high, rows)
    return low, high - low


@triton.jit
def _visits(group, top, left, rows, cols, META: tl.constexpr, G: tl.constexpr):
    first_i, count_i = _range(top, top + META.TILE_ROWS - 1, rows, META, G)
    first_j, count_j = _range(left, left + META.TILE_COLS - 1, cols, META, G)
    return count_i * count_j, (first_i, first_j, count_j)


@triton.jit
def _visit(
    group,
    found,
    number,
    m,
    y,
    x,
    exists,
    head,
    rows,
    cols,
    META: tl.constexpr,
    G: tl.constexpr,
):
    """The bias is transposed here: (h, columns, s² filled up to whole tiles)."""
    STEP: tl.constexpr = META.STEPS[G]
    PAD: tl.constexpr = META.SPECS[G][0]
    SIZE: tl.constexpr = META.SPECS[G][1]
    i = found[0] + number // found[2]
    j = found[1] + number % found[2]
    row = y - i * STEP + PAD
    col = x - j * STEP + PAD
    seen = exists & (row >= 0) & (row < SIZE) & (col >= 0) & (col < SIZE)
    n = row * SIZE + col
    base = group.bias + head * group.bias_strides[0]
    pointer = base + n[:, None] * group.bias_strides[1] + m[None, :]
    bias = tl.load(pointer, mask=seen[:, None], other=float("-inf")).to(tl.float32)
    if G == 0:
        i = _wrap(i, rows)
        j = _wrap(j, cols)
        if META.SPECS[0][2] > 0:
            hidden = _hidden_by_shift(m[None, :], n[:, None], i, j, rows, cols, META)
            bias += tl.where(hidden, _OUTSIDE, 0.0)
    return i, j, bias


@triton.jit
def _bias_tile(group, tile, m, head, rows, cols, META: tl.constexpr, G: tl.constexpr):
    n = tile * META.BLOCKS_N[G] + tl.arange(0, META.BLOCKS_N[G])
    return _load_bias(group, m, n, head, META), 0, rows * cols


@triton.jit
def _bias_visit(
    group, bias, tile, number, m, rows, cols, META: tl.constexpr, G: tl.constexpr
):
    n = tile * META.BLOCKS_N[G] + tl.arange(0, META.BLOCKS_N[G])
    i = number // cols
    j = number % cols
    y, x, exists, bias = _see(bias, m, n, i, j, rows, cols, META, G)
    return i, j, y, x, exists, bias


WINDOW_KEYS = KeyFunctions(_count, _keys, _visits, _visit, _bias_tile, _bias_visit)
