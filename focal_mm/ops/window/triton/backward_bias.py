"""Gradient of the bias: sums over images and windows, without atomics."""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.window.triton.tiles import (
    OUTSIDE,
    dot,
    hidden_by_shift,
    key_tile,
    load_tokens,
    query_tile,
)


@triton.jit
def backward_bias_kernel(
    query,
    key,
    value,
    bias,
    lse,
    grad_out,
    delta,
    grad_bias,
    query_strides,
    key_strides,
    value_strides,
    images,
    rows,
    cols,
    heads,
    scale,
    S: tl.constexpr,
    STEP: tl.constexpr,
    PAD: tl.constexpr,
    SIZE: tl.constexpr,
    FINE: tl.constexpr,
    SHIFT: tl.constexpr,
    COLUMNS: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Sum of the logits' gradients over a share of all windows of all images.

    One program per share, tile of (queries, keys of one group) and head keeps its
    tile of the sum in registers.

    Arguments that need words:
        query: As in ``backward_key_kernel``, like all that it shares with it.
        grad_bias: The group's first column of (shares, h, s², COLUMNS) float32,
            written.
        images: Images B.
    """
    KEY_TILES: tl.constexpr = (SIZE * SIZE + BLOCK_N - 1) // BLOCK_N
    share = tl.program_id(0)
    m_start = tl.program_id(1) // KEY_TILES * BLOCK_M
    n_start = tl.program_id(1) % KEY_TILES * BLOCK_N
    head = tl.program_id(2)
    height = rows * S
    width = cols * S

    m = m_start + tl.arange(0, BLOCK_M)
    n = n_start + tl.arange(0, BLOCK_N)
    place = tl.minimum(m, S * S - 1)[:, None] * COLUMNS + n[None, :]
    added = tl.load(bias + head * S * S * COLUMNS + place).to(tl.float32)
    query += head * query_strides[3]
    key += head * key_strides[3]
    value += head * value_strides[3]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for index in range(share, images * rows * cols, tl.num_programs(0)):
        image = (index // (rows * cols)).to(tl.int64)
        i = index % (rows * cols) // cols
        j = index % cols
        m, q_y, q_x, is_query = query_tile(m_start, i, j, S, BLOCK_M)
        n, y, x, exists = key_tile(
            n_start, i, j, rows, cols, STEP, PAD, SIZE, FINE, BLOCK_N
        )
        q_offset = q_y * query_strides[1] + q_x * query_strides[2]
        k_offset = y * key_strides[1] + x * key_strides[2]
        v_offset = y * value_strides[1] + x * value_strides[2]
        q = load_tokens(
            query + image * query_strides[0], q_offset, is_query, D, BLOCK_D
        )
        k = load_tokens(key + image * key_strides[0], k_offset, exists, D, BLOCK_D)
        v = load_tokens(value + image * value_strides[0], v_offset, exists, D, BLOCK_D)
        token = q_y * width + q_x
        do = load_tokens(
            grad_out + (image * height * width * heads + head) * D,
            token * (heads * D),
            is_query,
            D,
            BLOCK_D,
        )
        scalars = (image * heads + head) * height * width + token
        q_lse = tl.load(lse + scalars, mask=is_query, other=float("inf"))
        q_delta = tl.load(delta + scalars, mask=is_query, other=0.0)
        logits = dot(q, tl.trans(k), PRECISION, WIDEN) * scale + added
        if not FINE:
            logits += tl.where(exists, 0.0, OUTSIDE)[None, :]
        elif SHIFT > 0:
            hidden = hidden_by_shift(
                m[:, None], n[None, :], i, j, rows, cols, S, PAD, SHIFT
            )
            logits += tl.where(hidden, OUTSIDE, 0.0)
        weight = tl.exp2(logits - q_lse[:, None])
        grad_weight = dot(do, tl.trans(v), PRECISION, WIDEN)
        acc += weight * (grad_weight - q_delta[:, None])

    base = grad_bias + (share * heads + head) * S * S * COLUMNS
    pointer = base + m[:, None] * COLUMNS + n[None, :]
    tl.store(pointer, acc, mask=(m < S * S)[:, None] & (n < SIZE * SIZE)[None, :])
