"""Gradient of the bias tables: sums over images and windows, without atomics."""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.topk.triton.tiles import (
    load_bias,
    load_query_side,
    map_offset,
    query_entry,
)
from focal_mm.ops.window.triton.tiles import dot, load_tokens, query_tile


@triton.jit
def topk_backward_bias_kernel(
    query,
    key,
    value,
    table,
    places,
    starts,
    windows,
    members,
    lse,
    grad_out,
    delta,
    grad_bias,
    query_strides,
    key_strides,
    value_strides,
    map_cols,
    table_size,
    table_cols,
    images,
    rows,
    cols,
    heads,
    scale,
    S: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    PRECISION: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """Sum of the logits' gradients over a share of the windows of all images.

    Queries see keys at one displacement from the window's centre under the same
    entries of the table, whatever the window. One program per share, tile of
    (queries, displacements) and head keeps its tile of the sum in registers.

    Arguments that need words:
        query: As in ``topk_backward_key_kernel``, like all that it shares with it.
        places: Of ``tables.displacement_visits``, as starts, windows and members.
        grad_bias: (shares, h, s², tiles * BLOCK_N) float32, written.
        images: Images B.
    """
    M_TILES: tl.constexpr = (S * S + BLOCK_M - 1) // BLOCK_M
    share = tl.program_id(0)
    tile = tl.program_id(1) // M_TILES
    m_start = tl.program_id(1) % M_TILES * BLOCK_M
    columns = tl.num_programs(1) // M_TILES * BLOCK_N
    head = tl.program_id(2)
    height = rows * S
    width = cols * S

    m = m_start + tl.arange(0, BLOCK_M)
    n = tl.arange(0, BLOCK_N)
    entry = query_entry(m, table_cols, S)
    place = tl.load(places + tile * BLOCK_N + n)
    table += head * table_size
    added = load_bias(table, entry[:, None] + place[None, :], (m < S * S)[:, None])
    query += head * query_strides[3]
    key += head * key_strides[3]
    value += head * value_strides[3]

    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    first = tl.load(starts + tile)
    visits = tl.load(starts + tile + 1) - first
    for step in range(share, images * visits, tl.num_programs(0)):
        image = (step // visits).to(tl.int64)
        visit = first + step % visits
        window = tl.load(windows + visit)
        token = tl.load(members + visit.to(tl.int64) * BLOCK_N + n)
        seen = token >= 0
        k_offset = map_offset(token, map_cols, key_strides)
        v_offset = map_offset(token, map_cols, value_strides)
        k = load_tokens(key + image * key_strides[0], k_offset, seen, D, BLOCK_D)
        v = load_tokens(value + image * value_strides[0], v_offset, seen, D, BLOCK_D)
        m, q_y, q_x, is_query = query_tile(
            m_start, window // cols, window % cols, S, BLOCK_M
        )
        scalars = (image * heads + head) * height * width
        q, do, q_lse, q_delta = load_query_side(
            query + image * query_strides[0],
            grad_out + (image * height * width * heads + head) * D,
            lse + scalars,
            delta + scalars,
            query_strides,
            q_y,
            q_x,
            is_query,
            width,
            heads,
            D,
            BLOCK_D,
        )
        logits = dot(q, tl.trans(k), PRECISION, WIDEN) * scale + added
        logits = tl.where(seen[None, :], logits, float("-inf"))
        weight = tl.exp2(logits - q_lse[:, None])
        grad_weight = dot(do, tl.trans(v), PRECISION, WIDEN)
        acc += weight * (grad_weight - q_delta[:, None])

    grad_bias += (share * heads + head) * S * S * columns + tile * BLOCK_N
    pointer = grad_bias + m[:, None] * columns + n[None, :]
    tl.store(pointer, acc, mask=(m < S * S)[:, None])
