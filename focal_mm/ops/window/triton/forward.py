"""The forward kernel: one program per window, tile of queries, image and head."""

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
    softmax_step,
    store_tokens,
)


@triton.jit
def forward_kernel(
    query,
    key,
    value,
    pooled_key,
    pooled_value,
    bias,
    out,
    lse,
    query_strides,
    key_strides,
    value_strides,
    pooled_key_strides,
    pooled_value_strides,
    rows,
    cols,
    heads,
    scale,
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
    """Output and log2 of the softmax's denominator of a tile of queries.

    Arguments that need words:
        query: (B, H, W, h, d), as key and value; strides (image, row, column, head).
        pooled_key: (B, tokens of all levels, h, d), as pooled_value; strides
            (image, token, head).
        bias: (h, s², COLUMNS) packed, in units of log 2.
        out: (B, H, W, h, d) contiguous, written.
        lse: (B, h, H, W) float32 contiguous, written.
        rows, cols: Rows and columns of windows.
        scale: Factor of the products, times log2(e).
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
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    peak = tl.full((BLOCK_M,), -1e30, tl.float32)

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
                token = y * (cols * STEPS[group]) + x
                k_offset = token * pooled_key_strides[1]
                v_offset = token * pooled_value_strides[1]
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
            acc, total, peak = softmax_step(
                logits, v, acc, total, peak, PRECISION, WIDEN
            )
        bias_row += aligned(SIZES[group] * SIZES[group])
        if group > 0:
            tokens = rows * cols * (STEPS[group] * STEPS[group])
            pooled_key += tokens * pooled_key_strides[1]
            pooled_value += tokens * pooled_value_strides[1]

    height = rows * S
    width = cols * S
    token = q_y * width + q_x
    out += (image * height * width * heads + head) * D
    result = acc / total[:, None]
    store_tokens(out, token * (heads * D), is_query, result, D, BLOCK_D)
    lse += (image * heads + head) * height * width
    tl.store(lse + token, peak + tl.log2(total), mask=is_query)
