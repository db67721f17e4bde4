"""The forward kernel: one program per window, tile of queries, image and head."""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.topk.triton.tiles import key_tile, query_entry
from focal_mm.ops.window.triton.tiles import (
    load_tokens,
    query_tile,
    softmax_step,
    store_tokens,
)


@triton.jit
def topk_forward_kernel(
    query,
    keys,
    values,
    tables,
    index,
    out,
    lse,
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
    LEVELS: tl.constexpr,
    BLOCKS_N: tl.constexpr,
    S: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Output and log2 of the softmax's denominator of a tile of queries.

    Arguments that need words:
        query: (B, H, W, h, d); strides (image, row, column, head).
        keys: Per level (B, Hk, Wk, h, d), as values; key_strides and value_strides
            likewise.
        tables: Per level (h, table_sizes) contiguous, rows of table_cols.
        index: (2, windows, num_keys) of ``tables.window_keys``.
        out: (B, H, W, h, d) contiguous, written.
        lse: (B, h, H, W) float32 contiguous, written.
        widths: Per level the columns of the map.
        counts: Per level the keys of a window.
        num_keys: Their sum.
        rows, cols: Rows and columns of windows.
        scale: Factor of the products, times log2(e).
        BLOCKS_N: Per level the keys of a tile.
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
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    peak = tl.full((BLOCK_M,), -1e30, tl.float32)

    plane = rows * cols * num_keys
    index += window * num_keys
    for level in tl.static_range(LEVELS):
        key = keys[level] + image * key_strides[level][0] + head * key_strides[level][3]
        value = values[level] + image * value_strides[level][0]
        value += head * value_strides[level][3]
        table = tables[level] + head * table_sizes[level]
        entry = query_entry(m, table_cols[level], S)
        for first in range(0, counts[level], BLOCKS_N[level]):
            _, v, logits = key_tile(
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
            acc, total, peak = softmax_step(
                logits, v, acc, total, peak, PRECISION, WIDEN
            )
        index += counts[level]

    height = rows * S
    width = cols * S
    token = q_y * width + q_x
    out += (image * height * width * heads + head) * D
    result = acc / total[:, None]
    store_tokens(out, token * (heads * D), is_query, result, D, BLOCK_D)
    lse += (image * heads + head) * height * width
    tl.store(lse + token, peak + tl.log2(total), mask=is_query)
