"""Which keys a window has, and their biases, on the device: read from lists.

The lists are those of :mod:`focal_mm.ops.topk.triton.tables`: ``window_keys`` for the
forward pass and the gradient of the queries, ``token_visits`` for that of the keys,
``displacement_visits`` for that of the biases. A group's bias is its table.
"""

from __future__ import annotations

import triton
import triton.language as tl

from focal_mm.ops.common.triton.kernels import KeyFunctions
from focal_mm.ops.common.triton.tiles import LOG2_E

_LOG2_E: tl.constexpr = tl.constexpr(LOG2_E)


@triton.jit
def _query_entry(group, m, META: tl.constexpr):
    """Entries of the bias table from a window's first query to query m."""
    m = tl.minimum(m, META.S * META.S - 1)
    return m // META.S * group.bias_strides[1] + m % META.S


@triton.jit
def _load_bias(group, head, entry, exists):
    """Entries of the bias table in units of log 2, minus infinity where none is."""
    pointer = group.bias + head * group.bias_strides[0] + entry
    return tl.load(pointer, mask=exists, other=float("-inf")).to(tl.float32) * _LOG2_E


@triton.jit
def _count(group, META: tl.constexpr, G: tl.constexpr):
    return group.count


@triton.jit
def _keys(group, n, m, i, j, head, rows, cols, META: tl.constexpr, G: tl.constexpr):
    index = group.lists[0] + (i * cols + j) * group.count
    exists = n < group.count
    token = tl.load(index + n, mask=exists, other=0)
    place = tl.load(index + rows * cols * group.count + n, mask=exists, other=0)
    entry = _query_entry(group, m, META)[:, None] + place[None, :]
    width = cols * META.STEPS[G]
    bias = _load_bias(group, head, entry, exists[None, :])
    return token // width, token % width, exists, bias


@triton.jit
def _visits(group, top, left, rows, cols, META: tl.constexpr, G: tl.constexpr):
    starts = group.lists[0] + tl.program_id(0)
    first = tl.load(starts)
    return tl.load(starts + 1) - first, first


@triton.jit
def _visit(
    group,
    found,
    number,
    m,
    y,
    x,
    exists,
    head,
    rows,
    cols,
    META: tl.constexpr,
    G: tl.constexpr,
):
    TILE: tl.constexpr = META.TILE_ROWS * META.TILE_COLS
    visit = found + number
    window = tl.load(group.lists[1] + visit)
    members = group.lists[2] + visit.to(tl.int64) * TILE
    place = tl.load(members + tl.arange(0, TILE))
    entry = place[:, None] + _query_entry(group, m, META)[None, :]
    bias = _load_bias(group, head, entry, (place >= 0)[:, None])
    return window // cols, window % cols, bias


@triton.jit
def _bias_tile(group, tile, m, head, rows, cols, META: tl.constexpr, G: tl.constexpr):
    """Queries see keys at one displacement from the window's centre under the same
    entries of the table, whatever the window: a column is a displacement.
    """
    n = tile * META.BLOCKS_N[G] + tl.arange(0, META.BLOCKS_N[G])
    place = tl.load(group.lists[3] + n)
    entry = _query_entry(group, m, META)[:, None] + place[None, :]
    bias = _load_bias(group, head, entry, (m < META.S * META.S)[:, None])
    first = tl.load(group.lists[0] + tile)
    return bias, first, tl.load(group.lists[0] + tile + 1) - first


@triton.jit
def _bias_visit(
    group, bias, tile, number, m, rows, cols, META: tl.constexpr, G: tl.constexpr
):
    window = tl.load(group.lists[1] + number)
    members = group.lists[2] + number.to(tl.int64) * META.BLOCKS_N[G]
    token = tl.load(members + tl.arange(0, META.BLOCKS_N[G]))
    exists = token >= 0
    bias = tl.where(exists[None, :], bias, float("-inf"))
    width = cols * META.STEPS[G]
    return window // cols, window % cols, token // width, token % width, exists, bias


TOPK_KEYS = KeyFunctions(_count, _keys, _visits, _visit, _bias_tile, _bias_visit)
