"""Gradient of the queries: the forward kernel's programs once more."""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.topk.triton.tiles import key_tile, query_entry
from focal_mm.ops.window.triton.tiles import (
    dot,
    load_tokens,
    query_tile,
    store_tokens,
)


@triton.jit
def topk_backward_query_kernel(
    query,
    keys,
    values,
    tables,
    index,
    out,
    lse,
    grad_out,
    grad_query,
    delta,
    query_strides,
    key_strides,
    value_strides,
    widths,
    counts,
    table_sizes,
    table_cols,
    num_keys,
    rows,
    cols,
    heads,
    scale,
    grad_scale,
    LEVELS: tl.constexpr,
    BLOCKS_N: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Gradient of the queries, and ``delta``: dO * O summed over channels.

    The other kernels need ``delta``. Weights are computed again from the logits and
    ``lse``.

    Arguments that need words:
        query: As in the forward kernel, like all that it shares with it.
        out: (B, H, W, h, d) contiguous, as grad_out and grad_query.
        grad_query: Written.
        delta: (B, h, H, W) float32 contiguous, written.
        grad_scale: Factor of the products.
    """
    TILES: tl.constexpr = (S * S + BLOCK_M - 1) // BLOCK_M
    window = tl.program_id(0) // TILES
    start = tl.program_id(0) % TILES * BLOCK_M
    image = tl.program_id(1).to(tl.int64)
    head = tl.program_id(2)
    i = window // cols
    j = window % cols
    m, q_y, q_x, is_query = query_tile(start, i, j, S, BLOCK_M)

    query += image * query_strides[0] + head * query_strides[3]
    q_offset = q_y * query_strides[1] + q_x * query_strides[2]
    q = load_tokens(query, q_offset, is_query, D, BLOCK_D)

    height = rows * S
    width = cols * S
    token = q_y * width + q_x
    scalars = (image * heads + head) * height * width + token
    tokens_of_head = (image * height * width * heads + head) * D
    offset = token * (heads * D)
    do = load_tokens(grad_out + tokens_of_head, offset, is_query, D, BLOCK_D)
    o = load_tokens(out + tokens_of_head, offset, is_query, D, BLOCK_D)
    own_delta = tl.sum(do.to(tl.float32) * o.to(tl.float32), 1)
    tl.store(delta + scalars, own_delta, mask=is_query)
    own_lse = tl.load(lse + scalars, mask=is_query, other=float("inf"))

    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    plane = rows * cols * num_keys
    index += window * num_keys
    for level in tl.static_range(LEVELS):
        key = keys[level] + image * key_strides[level][0] + head * key_strides[level][3]
        value = values[level] + image * value_strides[level][0]
        value += head * value_strides[level][3]
        table = tables[level] + head * table_sizes[level]
        entry = query_entry(m, table_cols[level], S)
        for first in range(0, counts[level], BLOCKS_N[level]):
            k, v, logits = key_tile(
                q,
                key,
                value,
                table,
                index,
                plane,
                first,
                counts[level],
                entry,
                key_strides[level],
                value_strides[level],
                widths[level],
                scale,
                D,
                BLOCK_D,
                BLOCKS_N[level],
                PRECISION,
                WIDEN,
            )
            weight = tl.exp2(logits - own_lse[:, None])
            grad_weight = dot(do, tl.trans(v), PRECISION, WIDEN)
            grad_logits = weight * (grad_weight - own_delta[:, None])
            acc += dot(grad_logits.to(k.dtype), k, PRECISION, WIDEN)
        index += counts[level]

    result = acc * grad_scale
    store_tokens(grad_query + tokens_of_head, offset, is_query, result, D, BLOCK_D)
