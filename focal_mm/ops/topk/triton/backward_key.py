"""Gradients of keys and values, gathered: no two programs write to one token."""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.topk.triton.tiles import load_bias, load_query_side, query_entry
from focal_mm.ops.window.triton.tiles import (
    dot,
    load_tokens,
    query_tile,
    store_tokens,
)


@triton.jit
def topk_backward_key_kernel(
    query,
    key,
    value,
    table,
    starts,
    windows,
    members,
    lse,
    grad_out,
    delta,
    grad_key,
    grad_value,
    query_strides,
    key_strides,
    value_strides,
    grad_strides,
    map_rows,
    map_cols,
    table_size,
    table_cols,
    rows,
    cols,
    heads,
    scale,
    grad_scale,
    S: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Gradients of the keys and values of a rectangle of tokens of one level.

    One program per rectangle, image and head visits all windows that have any of its
    tokens among their keys.

    Arguments that need words:
        query: (B, H, W, h, d), strides (image, row, column, head).
        key: The level's map (B, map_rows, map_cols, h, d), as value.
        table: The level's biases (h, table_size) contiguous, rows of table_cols.
        starts: Of ``tables.token_visits``, as windows and members.
        lse: (B, h, H, W) float32 contiguous, as delta.
        grad_out: (B, H, W, h, d) contiguous.
        grad_key: As key, with grad_strides, written; as grad_value.
        rows, cols: Rows and columns of windows.
        scale: Factor of the products, times log2(e).
        grad_scale: Factor of the products.
    """
    TILE: tl.constexpr = TILE_ROWS * TILE_COLS
    tiles_per_row = (map_cols + TILE_COLS - 1) // TILE_COLS
    tile = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    head = tl.program_id(2)

    member = tl.arange(0, TILE)
    y = tile // tiles_per_row * TILE_ROWS + member // TILE_COLS
    x = tile % tiles_per_row * TILE_COLS + member % TILE_COLS
    exists = (y < map_rows) & (x < map_cols)
    key += image * key_strides[0] + head * key_strides[3]
    value += image * value_strides[0] + head * value_strides[3]
    k_offset = y * key_strides[1] + x * key_strides[2]
    v_offset = y * value_strides[1] + x * value_strides[2]
    k = load_tokens(key, k_offset, exists, D, BLOCK_D)
    v = load_tokens(value, v_offset, exists, D, BLOCK_D)

    height = rows * S
    width = cols * S
    query += image * query_strides[0] + head * query_strides[3]
    table += head * table_size
    grad_out += (image * height * width * heads + head) * D
    lse += (image * heads + head) * height * width
    delta += (image * heads + head) * height * width

    grad_k = tl.zeros((TILE, BLOCK_D), tl.float32)
    grad_v = tl.zeros((TILE, BLOCK_D), tl.float32)
    M_TILES: tl.constexpr = (S * S + BLOCK_M - 1) // BLOCK_M
    first = tl.load(starts + tile) * M_TILES
    last = tl.load(starts + tile + 1) * M_TILES
    for step in range(first, last):
        visit = step // M_TILES
        window = tl.load(windows + visit)
        place = tl.load(members + visit.to(tl.int64) * TILE + member)
        i = window // cols
        j = window % cols
        m, q_y, q_x, is_query = query_tile(step % M_TILES * BLOCK_M, i, j, S, BLOCK_M)
        q, do, q_lse, q_delta = load_query_side(
            query,
            grad_out,
            lse,
            delta,
            query_strides,
            q_y,
            q_x,
            is_query,
            width,
            heads,
            D,
            BLOCK_D,
        )
        entry = query_entry(m, table_cols, S)
        seen = place >= 0
        added = load_bias(table, place[:, None] + entry[None, :], seen[:, None])
        logits = dot(k, tl.trans(q), PRECISION, WIDEN) * scale + added
        weight = tl.exp2(logits - q_lse[None, :])
        grad_v += dot(weight.to(do.dtype), do, PRECISION, WIDEN)
        grad_weight = dot(v, tl.trans(do), PRECISION, WIDEN)
        grad_logits = weight * (grad_weight - q_delta[None, :])
        grad_k += dot(grad_logits.to(q.dtype), q, PRECISION, WIDEN)

    offset = y * grad_strides[1] + x * grad_strides[2]
    base = image * grad_strides[0] + head * grad_strides[3]
    store_tokens(grad_key + base, offset, exists, grad_k * grad_scale, D, BLOCK_D)
    store_tokens(grad_value + base, offset, exists, grad_v, D, BLOCK_D)
