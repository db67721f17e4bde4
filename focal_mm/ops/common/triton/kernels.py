"""The kernels of all key selections: every sum is made by one program, in one order.

What a key selection decides is which keys a tile has and what is added to their logits.
It brings the device functions of :class:`KeyFunctions`, which the kernels call.

``rows`` and ``cols`` are those of windows; ``scales`` are the factor of the products
for logits in units of log 2, and as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from triton.runtime import KernelInterface

from focal_mm.ops.common.triton.tiles import (
    contiguous,
    dot,
    load_keys,
    load_queries,
    load_query,
    load_tokens,
    query_positions,
    scores,
    softmax_step,
    store_tokens,
)


class KeyFunctions(NamedTuple):
    """Device functions of a key selection.

    ``group`` is a :class:`~focal_mm.ops.common.triton.tiles.Group`, (i, j) a window,
    ``rows`` and ``cols`` those of windows, m the numbers of queries in a window; y and
    x are rows and columns on the map, ``exists`` tells which of the keys there are,
    ``bias`` is what is added to logits, in units of log 2.

    Attributes:
        count: ``(group, META, G)``: keys of a window.
        keys: ``(group, n, m, i, j, head, rows, cols, META, G)``: ``y, x, exists`` of
            the window's keys n, and their bias (m, n).
        visits: ``(group, top, left, rows, cols, META, G)``: how many windows have
            keys in the rectangle of the map that starts there, and anything that
            ``visit`` needs to find them.
        visit: ``(group, found, number, m, y, x, exists, head, rows, cols, META, G)``:
            one of these windows, ``i, j``, and the bias (tokens, m), which is minus
            infinity where a token is no key.
        bias_tile: ``(group, tile, m, head, rows, cols, META, G)``: the bias (m, n) of
            a tile of its columns, the first of the windows that use it, how many do.
        bias_visit: ``(group, bias, tile, number, m, rows, cols, META, G)``: one of
            these windows, ``i, j``, the keys ``y, x, exists`` that it sees under
            the tile's columns, and the bias with what is particular to the window.
    """

    count: KernelInterface
    keys: KernelInterface
    visits: KernelInterface
    visit: KernelInterface
    bias_tile: KernelInterface
    bias_visit: KernelInterface


@triton.jit
def _own_queries(cols, META: tl.constexpr):
    """Window, tile of queries, image and head of a program."""
    TILES: tl.constexpr = (META.S * META.S + META.BLOCK_M - 1) // META.BLOCK_M
    window = tl.program_id(0) // TILES
    m = tl.program_id(0) % TILES * META.BLOCK_M + tl.arange(0, META.BLOCK_M)
    image = tl.program_id(1).to(tl.int64)
    return window // cols, window % cols, m, image, tl.program_id(2)


@triton.jit(do_not_specialize=["rows", "cols"])
def forward_kernel(
    queries,
    groups,
    rows,
    cols,
    scales,
    META: tl.constexpr,
    COUNT: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Output and ``lse`` of a tile of queries."""
    BLOCK_M: tl.constexpr = META.BLOCK_M
    BLOCK_D: tl.constexpr = META.BLOCK_D
    i, j, m, image, head = _own_queries(cols, META)
    y, x, is_query = query_positions(m, i, j, META)
    q = load_query(queries, image, head, y, x, is_query, META)

    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    l_i = tl.zeros((BLOCK_M,), tl.float32)
    m_i = tl.full((BLOCK_M,), -1e30, tl.float32)
    for g in tl.static_range(len(META.STEPS)):
        for first in range(0, COUNT(groups[g], META, g), META.BLOCKS_N[g]):
            n = first + tl.arange(0, META.BLOCKS_N[g])
            k_y, k_x, exists, bias = KEYS(
                groups[g], n, m, i, j, head, rows, cols, META, g
            )
            k, v = load_keys(groups[g], image, head, k_y, k_x, exists, META)
            logits = scores(q, k, bias, scales, META)
            acc, l_i, m_i = softmax_step(logits, v, acc, l_i, m_i, META)

    first, first_channel, token, offset = contiguous(
        image, head, y, x, rows * META.S, cols * META.S, META
    )
    result = acc / l_i[:, None]
    store_tokens(queries.out + first_channel, offset, is_query, result, META)
    tl.store(queries.lse + first + token, m_i + tl.log2(l_i), mask=is_query)


@triton.jit(do_not_specialize=["rows", "cols"])
def backward_query_kernel(
    queries,
    groups,
    grad_query,
    rows,
    cols,
    scales,
    META: tl.constexpr,
    COUNT: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Gradient of a tile of queries, contiguous, and ``delta`` for the other kernels.

    Weights are computed again from the logits and ``lse``.
    """
    BLOCK_M: tl.constexpr = META.BLOCK_M
    BLOCK_D: tl.constexpr = META.BLOCK_D
    i, j, m, image, head = _own_queries(cols, META)
    y, x, is_query = query_positions(m, i, j, META)
    q = load_query(queries, image, head, y, x, is_query, META)
    first, first_channel, token, offset = contiguous(
        image, head, y, x, rows * META.S, cols * META.S, META
    )
    do = load_tokens(queries.grad_out + first_channel, offset, is_query, META)
    o = load_tokens(queries.out + first_channel, offset, is_query, META)
    delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(queries.delta + first + token, delta, mask=is_query)
    lse = tl.load(queries.lse + first + token, mask=is_query, other=float("inf"))

    dq = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for g in tl.static_range(len(META.STEPS)):
        for first_key in range(0, COUNT(groups[g], META, g), META.BLOCKS_N[g]):
            n = first_key + tl.arange(0, META.BLOCKS_N[g])
            k_y, k_x, exists, bias = KEYS(
                groups[g], n, m, i, j, head, rows, cols, META, g
            )
            k, v = load_keys(groups[g], image, head, k_y, k_x, exists, META)
            p = tl.exp2(scores(q, k, bias, scales, META) - lse[:, None])
            dp = dot(do, tl.trans(v), META)
            ds = p * (dp - delta[:, None])
            dq += dot(ds.to(k.dtype), k, META)
    store_tokens(grad_query + first_channel, offset, is_query, dq * scales[1], META)


@triton.jit(do_not_specialize=["rows", "cols"])
def backward_key_kernel(
    queries,
    group,
    grad_key,
    grad_value,
    rows,
    cols,
    scales,
    META: tl.constexpr,
    G: tl.constexpr,
    VISITS: tl.constexpr,
    VISIT: tl.constexpr,
):
    """Gradients, contiguous, of the keys and values of a rectangle of a group's map.

    Gathered: one program per rectangle, image and head visits all windows that have any
    of its tokens among their keys.
    """
    TILE: tl.constexpr = META.TILE_ROWS * META.TILE_COLS
    BLOCK_D: tl.constexpr = META.BLOCK_D
    M_TILES: tl.constexpr = (META.S * META.S + META.BLOCK_M - 1) // META.BLOCK_M
    map_rows = rows * META.STEPS[G]
    map_cols = cols * META.STEPS[G]
    tiles_per_row = (map_cols + META.TILE_COLS - 1) // META.TILE_COLS
    top = tl.program_id(0) // tiles_per_row * META.TILE_ROWS
    left = tl.program_id(0) % tiles_per_row * META.TILE_COLS
    image = tl.program_id(1).to(tl.int64)
    head = tl.program_id(2)
    y = top + tl.arange(0, TILE) // META.TILE_COLS
    x = left + tl.arange(0, TILE) % META.TILE_COLS
    exists = (y < map_rows) & (x < map_cols)
    k, v = load_keys(group, image, head, y, x, exists, META)

    dk = tl.zeros((TILE, BLOCK_D), tl.float32)
    dv = tl.zeros((TILE, BLOCK_D), tl.float32)
    visits, found = VISITS(group, top, left, rows, cols, META, G)
    for step in range(0, visits * M_TILES):
        m = step % M_TILES * META.BLOCK_M + tl.arange(0, META.BLOCK_M)
        i, j, bias = VISIT(
            group, found, step // M_TILES, m, y, x, exists, head, rows, cols, META, G
        )
        q_y, q_x, is_query = query_positions(m, i, j, META)
        q, do, lse, delta = load_queries(
            queries, image, head, q_y, q_x, is_query, rows, cols, META
        )
        p = tl.exp2(scores(k, q, bias, scales, META) - lse[None, :])
        dv += dot(p.to(do.dtype), do, META)
        dp = dot(v, tl.trans(do), META)
        ds = p * (dp - delta[None, :])
        dk += dot(ds.to(q.dtype), q, META)

    _, first_channel, _, offset = contiguous(
        image, head, y, x, map_rows, map_cols, META
    )
    store_tokens(grad_key + first_channel, offset, exists, dk * scales[1], META)
    store_tokens(grad_value + first_channel, offset, exists, dv, META)


@triton.jit(do_not_specialize=["images", "rows", "cols"])
def backward_bias_kernel(
    queries,
    group,
    grad_bias,
    images,
    rows,
    cols,
    scales,
    META: tl.constexpr,
    G: tl.constexpr,
    BIAS_TILE: tl.constexpr,
    BIAS_VISIT: tl.constexpr,
):
    """Gradient of a tile of a group's bias, summed over a share of all windows.

    One program per share, tile of (queries, columns) and head keeps its tile of the sum
    in registers and writes it to ``grad_bias``, (shares, h, s², columns) float32.
    """
    BLOCK_M: tl.constexpr = META.BLOCK_M
    BLOCK_N: tl.constexpr = META.BLOCKS_N[G]
    M_TILES: tl.constexpr = (META.S * META.S + BLOCK_M - 1) // BLOCK_M
    share = tl.program_id(0)
    tile = tl.program_id(1) // M_TILES
    head = tl.program_id(2)
    m = tl.program_id(1) % M_TILES * BLOCK_M + tl.arange(0, BLOCK_M)
    tile_bias, first, visits = BIAS_TILE(group, tile, m, head, rows, cols, META, G)

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(share, images * visits, tl.num_programs(0)):
        image = (step // visits).to(tl.int64)
        i, j, k_y, k_x, exists, bias = BIAS_VISIT(
            group, tile_bias, tile, first + step % visits, m, rows, cols, META, G
        )
        y, x, is_query = query_positions(m, i, j, META)
        q, do, lse, delta = load_queries(
            queries, image, head, y, x, is_query, rows, cols, META
        )
        k, v = load_keys(group, image, head, k_y, k_x, exists, META)
        p = tl.exp2(scores(q, k, bias, scales, META) - lse[:, None])
        dp = dot(do, tl.trans(v), META)
        acc += p * (dp - delta[:, None])

    columns = tl.num_programs(1) // M_TILES * BLOCK_N
    grad_bias += (share * tl.num_programs(2) + head) * (META.S * META.S) * columns
    pointer = grad_bias + m[:, None] * columns + tile * BLOCK_N
    n = tl.arange(0, BLOCK_N)[None, :]
    tl.store(pointer + n, acc, mask=(m < META.S * META.S)[:, None])
