"""Pieces that all kernels share: where tokens stand and how they are read.

Both kinds of keys follow one formula. Window ``(i, j)`` sees a square of side SIZE
whose first row is ``i * STEP - PAD``; a key's place in that square is
``n = row * SIZE + column``:

=============  ==========  ==============  ============  ====================
keys           STEP        PAD             SIZE          past the map's border
=============  ==========  ==============  ============  ====================
fine           s           e               s + 2e        wraps around
coarse k       2^k         (r - 1) / 2     r + 2^k - 1   zero key, logit -100
=============  ==========  ==============  ============  ====================

Logits are kept in units of log 2, so that exp2 needs no factor.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl

from focal_mm.ops.window.geometry import OUTSIDE_LOGIT

LOG2_E = math.log2(math.e)

BIAS_ALIGN = 64
"""In the packed bias each group of keys starts at a multiple of this."""

OUTSIDE: tl.constexpr = tl.constexpr(OUTSIDE_LOGIT * LOG2_E)
_ALIGN: tl.constexpr = tl.constexpr(BIAS_ALIGN)


@triton.jit
def aligned(count: tl.constexpr):
    """Columns that ``count`` keys take in the packed bias."""
    return (count + _ALIGN - 1) // _ALIGN * _ALIGN


@triton.jit
def wrap(position, size):
    """A position at most ``size`` past either end of a side, brought back into it."""
    position = tl.where(position < 0, position + size, position)
    return tl.where(position >= size, position - size, position)


@triton.jit
def query_tile(start, i, j, S: tl.constexpr, BLOCK_M: tl.constexpr):
    """Queries ``start …`` of window (i, j).

    Returns:
        Their number in the window, their row and column on the map, whether there
        is such a query.
    """
    m = start + tl.arange(0, BLOCK_M)
    return m, i * S + m // S, j * S + m % S, m < S * S


@triton.jit
def key_tile(
    start,
    i,
    j,
    rows,
    cols,
    STEP: tl.constexpr,
    PAD: tl.constexpr,
    SIZE: tl.constexpr,
    WRAP: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Keys ``start …`` of the square that window (i, j) sees.

    Returns:
        Their number in the square, their row and column on the map, whether there
        is such a token.
    """
    n = start + tl.arange(0, BLOCK_N)
    y = i * STEP - PAD + n // SIZE
    x = j * STEP - PAD + n % SIZE
    exists = n < SIZE * SIZE
    if WRAP:
        y = wrap(y, rows * STEP)
        x = wrap(x, cols * STEP)
    else:
        exists &= (y >= 0) & (y < rows * STEP) & (x >= 0) & (x < cols * STEP)
    return n, y, x, exists


@triton.jit
def hidden_by_shift(
    m, n, i, j, rows, cols, S: tl.constexpr, PAD: tl.constexpr, SHIFT: tl.constexpr
):
    """Whether the border of the unrolled map lies between query m and fine key n.

    It cuts the last row and the last column of windows, and counts for a window's
    own keys only. ``m`` and ``n`` broadcast.
    """
    SIZE: tl.constexpr = S + 2 * PAD
    row = n // SIZE - PAD
    col = n % SIZE - PAD
    own = (row >= 0) & (row < S) & (col >= 0) & (col < S)
    rows_differ = (m // S >= S - SHIFT) != (row >= S - SHIFT)
    cols_differ = (m % S >= S - SHIFT) != (col >= S - SHIFT)
    return own & ((i == rows - 1) & rows_differ | (j == cols - 1) & cols_differ)


@triton.jit
def channel_mask(exists, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """(tokens, BLOCK_D) or broadcastable to it: which channels there are."""
    mask = exists[:, None]
    if BLOCK_D != D:
        mask = mask & (tl.arange(0, BLOCK_D) < D)[None, :]
    return mask


@triton.jit
def load_tokens(base, offset, exists, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Channels of tokens, (tokens, BLOCK_D); zeros where there is none."""
    pointer = base + offset[:, None] + tl.arange(0, BLOCK_D)[None, :]
    return tl.load(pointer, mask=channel_mask(exists, D, BLOCK_D), other=0.0)


@triton.jit
def store_tokens(base, offset, exists, value, D: tl.constexpr, BLOCK_D: tl.constexpr):
    """Write channels of tokens, (tokens, BLOCK_D), where they exist."""
    pointer = base + offset[:, None] + tl.arange(0, BLOCK_D)[None, :]
    value = value.to(base.dtype.element_ty)
    tl.store(pointer, value, mask=channel_mask(exists, D, BLOCK_D))


@triton.jit
def dot(a, b, PRECISION: tl.constexpr, WIDEN: tl.constexpr):
    """Matrix product with float32 sums.

    WIDEN is for the interpreter, which would multiply the bits of bfloat16 numbers.
    """
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def softmax_step(
    logits, v, acc, total, peak, PRECISION: tl.constexpr, WIDEN: tl.constexpr
):
    """One tile of keys of an online softmax.

    Args:
        logits: (queries, keys), in units of log 2.
        v: Values of the keys.
        acc: Weighted sum of the values so far, in units of ``2**-peak``.
        total: Sum of the weights so far, likewise.
        peak: The largest logit of each query so far.
        PRECISION: As :func:`dot`'s.
        WIDEN: As :func:`dot`'s.

    Returns:
        ``acc``, ``total`` and ``peak`` with these keys.
    """
    higher = tl.maximum(peak, tl.max(logits, 1))
    weight = tl.exp2(logits - higher[:, None])
    shrink = tl.exp2(peak - higher)
    total = total * shrink + tl.sum(weight, 1)
    product = dot(weight.to(v.dtype), v, PRECISION, WIDEN)
    return acc * shrink[:, None] + product, total, higher
