"""What the kernels take, and the pieces they are made of, for every key selection.

Keys come in groups, one for each map of tokens, the fine one first. ``META`` is a
:class:`Meta`, ``G`` the number of a group. Logits are kept in units of log 2, so that
exp2 needs no factor.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

LOG2_E = math.log2(math.e)


class Queries(NamedTuple):
    """The queries' side of a call.

    Attributes:
        query: (B, H, W, h, d).
        strides: Its image, row, column and head.
        out: (B, H, W, h, d) contiguous.
        lse: log2 of the softmax's denominators, (B, h, H, W) float32 contiguous.
        grad_out: As out.
        delta: dO * O summed over channels, as lse.
    """

    query: Tensor
    strides: tuple[int, ...]
    out: Tensor
    lse: Tensor
    grad_out: Tensor | None = None
    delta: Tensor | None = None


class Group(NamedTuple):
    """One group of keys.

    Attributes:
        key, value: (B, Hk, Wk, h, d).
        key_strides, value_strides: Their image, row, column and head.
        bias: (h, rows, columns) with contiguous columns; the rest is the key
            selection's business, as ``lists``.
        bias_strides: Its head and row.
        count: Keys of a window.
        lists: Tensors that say which keys to read.
    """

    key: Tensor
    value: Tensor
    key_strides: tuple[int, ...]
    value_strides: tuple[int, ...]
    bias: Tensor
    bias_strides: tuple[int, ...]
    count: int
    lists: tuple[Tensor, ...]


class Meta(NamedTuple):
    """Compile-time arguments.

    Attributes:
        S: Side of a window of queries.
        STEPS: Of each group, the tokens of its map along a window's side.
        SPECS: Of each group, what the key selection's own functions want to know.
        D: Channels of a head.
        BLOCK_D: Channels of a tile.
        BLOCK_M: Queries of a tile.
        BLOCKS_N: Of each group, the keys of a tile that is a run of a window's keys.
        TILE_ROWS, TILE_COLS: Sides of a tile that is a rectangle of the map.
        PRECISION: Of float32 products.
        WIDEN: For the interpreter, which would multiply the bits of bfloat16 numbers.
    """

    S: int
    STEPS: tuple[int, ...]
    SPECS: tuple[tuple[int, ...], ...]
    D: int
    BLOCK_D: int
    BLOCK_M: int
    BLOCKS_N: tuple[int, ...]
    TILE_ROWS: int
    TILE_COLS: int
    PRECISION: str
    WIDEN: bool


@triton.jit
def _channels(exists, META: tl.constexpr):
    """Channels of a tile, (1, BLOCK_D), and which of the tokens' there are."""
    channel = tl.arange(0, META.BLOCK_D)[None, :]
    mask = exists[:, None]
    if META.BLOCK_D != META.D:
        mask = mask & (channel < META.D)
    return channel, mask


@triton.jit
def load_tokens(base, offset, exists, META: tl.constexpr):
    """Channels of tokens, (tokens, BLOCK_D); zeros where there is none."""
    channel, mask = _channels(exists, META)
    return tl.load(base + offset[:, None] + channel, mask=mask, other=0.0)


@triton.jit
def store_tokens(base, offset, exists, tokens, META: tl.constexpr):
    """Write channels of tokens, (tokens, BLOCK_D), where they exist."""
    channel, mask = _channels(exists, META)
    tokens = tokens.to(base.dtype.element_ty)
    tl.store(base + offset[:, None] + channel, tokens, mask=mask)


@triton.jit
def dot(a, b, META: tl.constexpr):
    """Matrix product with float32 sums."""
    if META.WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, input_precision=META.PRECISION)


@triton.jit
def scores(a, b, bias, scales, META: tl.constexpr):
    """Logits of queries and keys, or of keys and queries."""
    return dot(a, tl.trans(b), META) * scales[0] + bias


@triton.jit
def softmax_step(logits, v, acc, l_i, m_i, META: tl.constexpr):
    """One tile of keys of an online softmax.

    Args:
        logits: (queries, keys).
        v: Values of the keys.
        acc: Weighted sum of the values so far, in units of ``2**-m_i``.
        l_i: Sum of the weights so far, likewise.
        m_i: The largest logit of each query so far.
        META: See the module.

    Returns:
        ``acc``, ``l_i`` and ``m_i`` with these keys.
    """
    m_new = tl.maximum(m_i, tl.max(logits, 1))
    p = tl.exp2(logits - m_new[:, None])
    alpha = tl.exp2(m_i - m_new)
    l_i = l_i * alpha + tl.sum(p, 1)
    acc = acc * alpha[:, None] + dot(p.to(v.dtype), v, META)
    return acc, l_i, m_new


@triton.jit
def query_positions(m, i, j, META: tl.constexpr):
    """Row and column on the map of queries m of window (i, j); whether they exist."""
    S: tl.constexpr = META.S
    return i * S + m // S, j * S + m % S, m < S * S


@triton.jit
def load_query(queries, image, head, y, x, exists, META: tl.constexpr):
    """Queries at rows y and columns x."""
    strides = queries.strides
    base = queries.query + image * strides[0] + head * strides[3]
    return load_tokens(base, y * strides[1] + x * strides[2], exists, META)


@triton.jit
def load_keys(group, image, head, y, x, exists, META: tl.constexpr):
    """Keys and values at rows y and columns x."""
    strides = group.key_strides
    base = group.key + image * strides[0] + head * strides[3]
    k = load_tokens(base, y * strides[1] + x * strides[2], exists, META)
    strides = group.value_strides
    base = group.value + image * strides[0] + head * strides[3]
    v = load_tokens(base, y * strides[1] + x * strides[2], exists, META)
    return k, v


@triton.jit
def contiguous(image, head, y, x, rows, cols, META: tl.constexpr):
    """Where tokens of a contiguous map of ``rows * cols`` stand.

    Returns:
        The image's and head's first number in (B, h, rows, cols), the same in
        (B, rows, cols, h, d); the tokens' offsets from each.
    """
    heads = tl.num_programs(2)
    token = y * cols + x
    first = (image * heads + head) * (rows * cols)
    first_channel = (image * (rows * cols) * heads + head) * META.D
    return first, first_channel, token, token * (heads * META.D)


@triton.jit
def load_queries(queries, image, head, y, x, exists, rows, cols, META: tl.constexpr):
    """What the gradients of keys and biases need of queries at rows y, columns x.

    Returns:
        Queries, gradients of their outputs, ``lse`` (infinite where there is no query,
        so that its weights are zero) and ``delta``.
    """
    q = load_query(queries, image, head, y, x, exists, META)
    first, first_channel, token, offset = contiguous(
        image, head, y, x, rows * META.S, cols * META.S, META
    )
    do = load_tokens(queries.grad_out + first_channel, offset, exists, META)
    lse = tl.load(queries.lse + first + token, mask=exists, other=float("inf"))
    delta = tl.load(queries.delta + first + token, mask=exists, other=0.0)
    return q, do, lse, delta
