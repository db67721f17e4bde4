"""Pieces that the kernels of top-K attention share, beside those of all kernels."""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.window.triton.tiles import LOG2_E, dot, load_tokens

_LOG2_E: tl.constexpr = tl.constexpr(LOG2_E)


@triton.jit
def map_offset(token, width, strides):
    """Where tokens, numbered row by row, stand in memory."""
    y = token // width
    return y * strides[1] + (token - y * width) * strides[2]


@triton.jit
def query_entry(m, columns, S: tl.constexpr):
    """Entries of a bias table from the window's first query to query m."""
    m = tl.minimum(m, S * S - 1)
    return m // S * columns + m % S


@triton.jit
def load_bias(table, entry, exists):
    """Biases in units of log 2, minus infinity where there is no pair."""
    bias = tl.load(table + entry, mask=exists, other=float("-inf"))
    return bias.to(tl.float32) * _LOG2_E


@triton.jit
def key_tile(
    q,
    key,
    value,
    table,
    index,
    plane,
    first,
    count,
    entry,
    key_strides,
    value_strides,
    width,
    scale,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Keys ``first …`` of a window's list: keys, values and logits.

    Args:
        q: Queries.
        key: First token of the image and head, as value.
        value: Values.
        table: The head's biases.
        index: The window's tokens; ``plane`` after them their places in the table.
        plane: See index.
        first: The first key.
        count: Keys in the list.
        entry: ``query_entry`` of the queries.
        key_strides: (image, row, column, head), as value_strides.
        value_strides: Strides of the values.
        width: Columns of the map.
        scale: Factor of the products, times log2(e).
        D: Channels.
        BLOCK_D: Channels of a tile.
        BLOCK_N: Keys of a tile.
        PRECISION: Of the products, as WIDEN.
        WIDEN: See ``dot``.
    """
    n = first + tl.arange(0, BLOCK_N)
    exists = n < count
    token = tl.load(index + n, mask=exists, other=0)
    place = tl.load(index + plane + n, mask=exists, other=0)
    k = load_tokens(key, map_offset(token, width, key_strides), exists, D, BLOCK_D)
    v = load_tokens(value, map_offset(token, width, value_strides), exists, D, BLOCK_D)
    added = load_bias(table, entry[:, None] + place[None, :], exists[None, :])
    return k, v, dot(q, tl.trans(k), PRECISION, WIDEN) * scale + added


@triton.jit
def load_query_side(
    query,
    grad_out,
    lse,
    delta,
    strides,
    y,
    x,
    is_query,
    width,
    heads,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """What the gradients of keys and biases need of a tile of queries.

    Args:
        query: First query of the image and head, as the next three.
        grad_out: (H, W, h, d) contiguous.
        lse: (H, W) contiguous.
        delta: As lse.
        strides: The query's (image, row, column, head).
        y: Rows of the queries.
        x: Columns of the queries.
        is_query: Whether there is such a query.
        width: Columns of the map.
        heads: Heads.
        D: Channels.
        BLOCK_D: Channels of a tile.

    Returns:
        Queries, gradients of their outputs, ``lse`` (infinite where there is no query,
        so that its weights are zero) and ``delta``.
    """
    q = load_tokens(query, y * strides[1] + x * strides[2], is_query, D, BLOCK_D)
    token = y * width + x
    do = load_tokens(grad_out, token * (heads * D), is_query, D, BLOCK_D)
    own_lse = tl.load(lse + token, mask=is_query, other=float("inf"))
    own_delta = tl.load(delta + token, mask=is_query, other=0.0)
    return q, do, own_lse, own_delta
