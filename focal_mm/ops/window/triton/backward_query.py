"""Gradient of the queries: the forward kernel's programs once more."""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.window.triton.tiles import (
    OUTSIDE,
    aligned,
    dot,
    hidden_by_shift,
    key_tile,
    load_tokens,
    query_tile,
    store_tokens,
)


@triton.jit
def backward_query_kernel(
    query,
    key,
    value,
    pooled_key,
    pooled_value,
    bias,
    out,
    lse,
    grad_out,
    grad_query,
    delta,
    query_strides,
    key_strides,
    value_strides,
    pooled_key_strides,
    pooled_value_strides,
    rows,
    cols,
    heads,
    scale,
    grad_scale,
    S: tl.constexpr,
    STEPS: tl.constexpr,
    PADS: tl.constexpr,
    SIZES: tl.constexpr,
    GROUPS: tl.constexpr,
    SHIFT: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
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
    key += image * key_strides[0] + head * key_strides[3]
    value += image * value_strides[0] + head * value_strides[3]
    pooled_key += image * pooled_key_strides[0] + head * pooled_key_strides[2]
    pooled_value += image * pooled_value_strides[0] + head * pooled_value_strides[2]
    bias_row = bias + (head * S * S + tl.minimum(m, S * S - 1)) * COLUMNS

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
    for group in tl.static_range(GROUPS):
        for first in range(0, SIZES[group] * SIZES[group], BLOCK_N):
            n, y, x, exists = key_tile(
                first,
                i,
                j,
                rows,
                cols,
                STEPS[group],
                PADS[group],
                SIZES[group],
                group == 0,
                BLOCK_N,
            )
            if group == 0:
                k_offset = y * key_strides[1] + x * key_strides[2]
                v_offset = y * value_strides[1] + x * value_strides[2]
                k = load_tokens(key, k_offset, exists, D, BLOCK_D)
                v = load_tokens(value, v_offset, exists, D, BLOCK_D)
            else:
                pooled = y * (cols * STEPS[group]) + x
                k_offset = pooled * pooled_key_strides[1]
                v_offset = pooled * pooled_value_strides[1]
                k = load_tokens(pooled_key, k_offset, exists, D, BLOCK_D)
                v = load_tokens(pooled_value, v_offset, exists, D, BLOCK_D)
            added = tl.load(bias_row[:, None] + n[None, :]).to(tl.float32)
            logits = dot(q, tl.trans(k), PRECISION, WIDEN) * scale + added
            if group > 0:
                logits += tl.where(exists, 0.0, OUTSIDE)[None, :]
            elif SHIFT > 0:
                hidden = hidden_by_shift(
                    m[:, None], n[None, :], i, j, rows, cols, S, PADS[0], SHIFT
                )
                logits += tl.where(hidden, OUTSIDE, 0.0)
            weight = tl.exp2(logits - own_lse[:, None])
            grad_weight = dot(do, tl.trans(v), PRECISION, WIDEN)
            grad_logits = weight * (grad_weight - own_delta[:, None])
            acc += dot(grad_logits.to(k.dtype), k, PRECISION, WIDEN)
        bias_row += aligned(SIZES[group] * SIZES[group])
        if group > 0:
            tokens = rows * cols * (STEPS[group] * STEPS[group])
            pooled_key += tokens * pooled_key_strides[1]
            pooled_value += tokens * pooled_value_strides[1]

    result = acc * grad_scale
    store_tokens(grad_query + tokens_of_head, offset, is_query, result, D, BLOCK_D)
