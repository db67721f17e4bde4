"""Gradients of keys and values, gathered: no two programs write to one token."""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.window.triton.tiles import (
    OUTSIDE,
    dot,
    hidden_by_shift,
    load_tokens,
    query_tile,
    store_tokens,
    wrap,
)


@triton.jit
def windows_that_see(
    first, last, STEP: tl.constexpr, PAD: tl.constexpr, SIZE: tl.constexpr
):
    """Range of windows (first, one past the last) that see any of ``first … last``.

    Window i sees the positions p with 0 <= p - i * STEP + PAD < SIZE. Divided are
    non-negative numbers only: rounding of negative ones is a matter of taste.
    """
    low = (first + PAD - SIZE + STEP + SIZE * STEP) // STEP - SIZE
    high = (last + PAD) // STEP + 1
    return low, high


@triton.jit
def backward_key_kernel(
    query,
    key,
    value,
    bias,
    lse,
    grad_out,
    delta,
    grad_key,
    grad_value,
    query_strides,
    key_strides,
    value_strides,
    grad_strides,
    rows,
    cols,
    heads,
    scale,
    grad_scale,
    S: tl.constexpr,
    STEP: tl.constexpr,
    PAD: tl.constexpr,
    SIZE: tl.constexpr,
    FINE: tl.constexpr,
    SHIFT: tl.constexpr,
    COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLS: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Gradients of the keys and values of a tile of tokens of one group.

    One program per tile, image and head visits all windows whose square (see
    ``tiles``) touches the tile. A fine token is in at most four squares if 2e < s,
    else in at most nine.

    Arguments that need words:
        query: (B, H, W, h, d), strides (image, row, column, head).
        key: The group's map (B, rows * STEP, cols * STEP, h, d), as value.
        bias: The group's first key of (h, COLUMNS, QUERIES), transposed and filled up
            to whole tiles of queries, in units of log 2.
        lse: (B, h, H, W) float32 contiguous, as delta.
        grad_out: (B, H, W, h, d) contiguous.
        grad_key: As key, with grad_strides, written; as grad_value.
        rows, cols: Rows and columns of windows.
        scale: Factor of the products, times log2(e).
        grad_scale: Factor of the products.
    """
    map_rows = rows * STEP
    map_cols = cols * STEP
    tiles_per_row = (map_cols + TILE_COLS - 1) // TILE_COLS
    image = tl.program_id(1).to(tl.int64)
    head = tl.program_id(2)
    top = tl.program_id(0) // tiles_per_row * TILE_ROWS
    left = tl.program_id(0) % tiles_per_row * TILE_COLS

    token = tl.arange(0, TILE_ROWS * TILE_COLS)
    y = top + token // TILE_COLS
    x = left + token % TILE_COLS
    exists = (y < map_rows) & (x < map_cols)
    key += image * key_strides[0] + head * key_strides[3]
    value += image * value_strides[0] + head * value_strides[3]
    k_offset = y * key_strides[1] + x * key_strides[2]
    v_offset = y * value_strides[1] + x * value_strides[2]
    k = load_tokens(key, k_offset, exists, D, BLOCK_D)
    v = load_tokens(value, v_offset, exists, D, BLOCK_D)

    bottom = tl.minimum(top + TILE_ROWS, map_rows) - 1
    right = tl.minimum(left + TILE_COLS, map_cols) - 1
    first_i, last_i = windows_that_see(top, bottom, STEP, PAD, SIZE)
    first_j, last_j = windows_that_see(left, right, STEP, PAD, SIZE)
    if not FINE:
        first_i = tl.maximum(first_i, 0)
        first_j = tl.maximum(first_j, 0)
        last_i = tl.minimum(last_i, rows)
        last_j = tl.minimum(last_j, cols)
    num_j = last_j - first_j

    height = rows * S
    width = cols * S
    query += image * query_strides[0] + head * query_strides[3]
    bias += head * COLUMNS * QUERIES
    grad_out += (image * height * width * heads + head) * D
    lse += (image * heads + head) * height * width
    delta += (image * heads + head) * height * width

    grad_k = tl.zeros((TILE_ROWS * TILE_COLS, BLOCK_D), tl.float32)
    grad_v = tl.zeros((TILE_ROWS * TILE_COLS, BLOCK_D), tl.float32)
    TILES: tl.constexpr = (S * S + BLOCK_M - 1) // BLOCK_M
    for step in range(0, (last_i - first_i) * num_j * TILES):
        # Where fine keys wrap around, the window is one beyond the map's border.
        virtual_i = first_i + step // TILES // num_j
        virtual_j = first_j + step // TILES % num_j
        i = virtual_i
        j = virtual_j
        if FINE:
            i = wrap(i, rows)
            j = wrap(j, cols)
        m, q_y, q_x, is_query = query_tile(step % TILES * BLOCK_M, i, j, S, BLOCK_M)
        q_offset = q_y * query_strides[1] + q_x * query_strides[2]
        q = load_tokens(query, q_offset, is_query, D, BLOCK_D)
        q_token = q_y * width + q_x
        do = load_tokens(grad_out, q_token * (heads * D), is_query, D, BLOCK_D)
        q_lse = tl.load(lse + q_token, mask=is_query, other=0.0)
        q_delta = tl.load(delta + q_token, mask=is_query, other=0.0)

        row = y - virtual_i * STEP + PAD
        col = x - virtual_j * STEP + PAD
        seen = exists & (row >= 0) & (row < SIZE) & (col >= 0) & (col < SIZE)
        n = row * SIZE + col
        added = tl.load(
            bias + n[:, None] * QUERIES + m[None, :],
            mask=seen[:, None],
            other=float("-inf"),
        ).to(tl.float32)
        logits = dot(k, tl.trans(q), PRECISION, WIDEN) * scale + added
        if FINE and SHIFT > 0:
            hidden = hidden_by_shift(
                m[None, :], n[:, None], i, j, rows, cols, S, PAD, SHIFT
            )
            logits += tl.where(hidden, OUTSIDE, 0.0)
        weight = tl.exp2(logits - q_lse[None, :])
        grad_v += dot(weight.to(do.dtype), do, PRECISION, WIDEN)
        grad_weight = dot(v, tl.trans(do), PRECISION, WIDEN)
        grad_logits = weight * (grad_weight - q_delta[None, :])
        grad_k += dot(grad_logits.to(q.dtype), q, PRECISION, WIDEN)

    offset = y * grad_strides[1] + x * grad_strides[2]
    base = image * grad_strides[0] + head * grad_strides[3]
    store_tokens(grad_key + base, offset, exists, grad_k * grad_scale, D, BLOCK_D)
    store_tokens(grad_value + base, offset, exists, grad_v, D, BLOCK_D)
