"""Launching the kernels: packed bias, tile sizes, grids."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from focal_mm.ops.window.geometry import FocalGeometry
from focal_mm.ops.window.triton.backward_bias import backward_bias_kernel
from focal_mm.ops.window.triton.backward_key import backward_key_kernel
from focal_mm.ops.window.triton.backward_query import backward_query_kernel
from focal_mm.ops.window.triton.forward import forward_kernel
from focal_mm.ops.window.triton.settings import (
    Launch,
    Settings,
    channels_contiguous,
    choose_settings,
    device_of,
    product_constants,
    token_strides,
)
from focal_mm.ops.window.triton.tiles import BIAS_ALIGN, LOG2_E


class Group(NamedTuple):
    """One kind of keys (see ``tiles``).

    Attributes:
        step, pad, size: Which square of the map a window sees.
        fine: Whether the map wraps around.
        column: First column in the packed bias.
        number: First column in the bias.
    """

    step: int
    pad: int
    size: int
    fine: bool
    column: int
    number: int


@functools.lru_cache(maxsize=64)
def key_groups(geometry: FocalGeometry) -> tuple[tuple[Group, ...], int]:
    """Groups of keys in the order of the bias, and the packed bias's columns."""
    squares = [(geometry.window_size, geometry.expand_size, geometry.halo_size)]
    for level in range(geometry.coarse_levels):
        pad = (geometry.focal_window - 1) // 2
        squares.append((geometry.stride(level), pad, geometry.region_size(level)))
    groups, column, number = [], 0, 0
    for index, (step, pad, size) in enumerate(squares):
        groups.append(Group(step, pad, size, index == 0, column, number))
        column += -(-(size**2) // BIAS_ALIGN) * BIAS_ALIGN
        number += size**2
    return tuple(groups), column


def pack_bias(bias: Tensor, geometry: FocalGeometry, dtype: torch.dtype) -> Tensor:
    """(h, s², keys) to (h, s², columns), in units of log 2.

    Columns that fill a group of keys up to a whole number of tiles hold minus
    infinity: the kernels then need no mask for them.
    """
    groups, columns = key_groups(geometry)
    packed = torch.full(
        (*bias.shape[:-1], columns), -torch.inf, dtype=dtype, device=bias.device
    )
    for group in groups:
        keys = slice(group.number, group.number + group.size**2)
        target = slice(group.column, group.column + group.size**2)
        torch.mul(bias[..., keys], LOG2_E, out=packed[..., target])
    return packed


def transpose_bias(packed: Tensor) -> Tensor:
    """(h, s², columns) to (h, columns, s² filled up to whole tiles)."""
    fill = -packed.shape[1] % BIAS_ALIGN
    filled = torch.nn.functional.pad(packed, (0, 0, 0, fill), value=-torch.inf)
    return filled.transpose(1, 2).contiguous()


@dataclass(frozen=True)
class Call:
    """Arguments of one attention, as the kernels want them.

    Attributes:
        query, key, value: (B, H, W, h, d); channels are contiguous.
        pooled_key, pooled_value: (B, tokens of all levels, h, d), likewise.
        bias: (h, s², keys) float32.
        geometry: The sizes.
        scale: Factor of the products.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    pooled_key: Tensor
    pooled_value: Tensor
    bias: Tensor
    geometry: FocalGeometry
    scale: float

    @property
    def grid(self) -> tuple[int, int]:
        """Windows of the map, (rows, columns)."""
        size = self.geometry.window_size
        return self.query.shape[1] // size, self.query.shape[2] // size

    def level(self, tokens: Tensor, level: int) -> Tensor:
        """One coarse level of (B, tokens of all levels, ...): (B, Hk, Wk, ...)."""
        rows, cols = self.grid
        windows = rows * cols
        start = windows * (4**level - 1) // 3
        shape = (rows * 2**level, cols * 2**level)
        return tokens[:, start : start + windows * 4**level].unflatten(1, shape)


def make_call(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    bias: Tensor,
    geometry: FocalGeometry,
    scale: float,
) -> Call:
    """A :class:`Call`; copies only tensors whose channels are not contiguous."""
    tensors = (query, key, value, pooled_key, pooled_value)
    return Call(*map(channels_contiguous, tensors), bias, geometry, scale)


def _constants(call: Call) -> dict[str, object]:
    """Compile-time arguments that all kernels share."""
    geometry = call.geometry
    return dict(
        S=geometry.window_size,
        SHIFT=geometry.shift_size,
        COLUMNS=key_groups(geometry)[1],
        **product_constants(call.query),
    )


def _squares(geometry: FocalGeometry) -> dict[str, object]:
    """Compile-time arguments of the kernels that visit all groups of keys."""
    groups, _ = key_groups(geometry)
    return dict(
        STEPS=tuple(group.step for group in groups),
        PADS=tuple(group.pad for group in groups),
        SIZES=tuple(group.size for group in groups),
        GROUPS=len(groups),
    )


def _settings(call: Call) -> Settings:
    return choose_settings(call.geometry, call.query.shape[-1], call.query.dtype)


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """Output (B, H, W, h, d), and the denominators' logarithm (B, h, H, W) float32."""
    batch, height, width, heads, _ = call.query.shape
    geometry, launch = call.geometry, _settings(call).forward
    out = torch.empty(
        call.query.shape, dtype=call.value.dtype, device=call.query.device
    )
    lse = out.new_empty((batch, heads, height, width), dtype=torch.float32)
    rows, cols = call.grid
    tiles = -(-geometry.window_area // launch.block_m)
    with device_of(out):
        forward_kernel[(rows * cols * tiles, batch, heads)](
            call.query,
            call.key,
            call.value,
            call.pooled_key,
            call.pooled_value,
            pack_bias(call.bias, geometry, call.query.dtype),
            out,
            lse,
            *map(token_strides, (call.query, call.key, call.value)),
            *map(token_strides, (call.pooled_key, call.pooled_value)),
            rows,
            cols,
            heads,
            call.scale * LOG2_E,
            **_squares(geometry),
            BLOCK_M=launch.block_m,
            BLOCK_N=launch.block_n,
            **_constants(call),
            **launch.options,
        )
    return out, lse


def _backward_query(
    call: Call, bias: Tensor, out: Tensor, lse: Tensor, grad_out: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of the queries, and ``delta`` for the other kernels."""
    batch, _, _, heads, _ = call.query.shape
    geometry, launch = call.geometry, _settings(call).backward_query
    grad_query, delta = torch.empty_like(out), torch.empty_like(lse)
    rows, cols = call.grid
    tiles = -(-geometry.window_area // launch.block_m)
    backward_query_kernel[(rows * cols * tiles, batch, heads)](
        call.query,
        call.key,
        call.value,
        call.pooled_key,
        call.pooled_value,
        bias,
        out,
        lse,
        grad_out,
        grad_query,
        delta,
        *map(token_strides, (call.query, call.key, call.value)),
        *map(token_strides, (call.pooled_key, call.pooled_value)),
        rows,
        cols,
        heads,
        call.scale * LOG2_E,
        call.scale,
        **_squares(geometry),
        BLOCK_M=launch.block_m,
        BLOCK_N=launch.block_n,
        **_constants(call),
        **launch.options,
    )
    return grad_query, delta


def _backward_key(
    call: Call,
    group: Group,
    maps: tuple[Tensor, Tensor],
    grads: tuple[Tensor, Tensor],
    shared: tuple[Tensor, ...],
    launch: Launch,
) -> None:
    """Write the gradients of one group's keys and values, (B, Hk, Wk, h, d)."""
    (key, value), (grad_key, grad_value) = maps, grads
    bias, lse, grad_out, delta = shared
    rows, cols = call.grid
    batch, map_rows, map_cols, heads, _ = key.shape
    tiles = -(-map_rows // launch.tile_rows) * -(-map_cols // launch.tile_cols)
    backward_key_kernel[(tiles, batch, heads)](
        call.query,
        key,
        value,
        bias[:, group.column :],
        lse,
        grad_out,
        delta,
        grad_key,
        grad_value,
        *map(token_strides, (call.query, key, value, grad_key)),
        rows,
        cols,
        heads,
        call.scale * LOG2_E,
        call.scale,
        STEP=group.step,
        PAD=group.pad,
        SIZE=group.size,
        FINE=group.fine,
        QUERIES=bias.shape[-1],
        BLOCK_M=launch.block_m,
        TILE_ROWS=launch.tile_rows,
        TILE_COLS=launch.tile_cols,
        **_constants(call),
        **launch.options,
    )


def _backward_bias(
    call: Call,
    maps: list[tuple[Tensor, Tensor]],
    shared: tuple[Tensor, ...],
    launch: Launch,
) -> Tensor:
    """Gradient of the bias, (h, s², keys) float32."""
    bias, lse, grad_out, delta = shared
    batch, _, _, heads, _ = call.query.shape
    area = call.geometry.window_area
    rows, cols = call.grid
    groups, columns = key_groups(call.geometry)
    m_tiles = -(-area // launch.block_m)
    tiles = [m_tiles * -(-(group.size**2) // launch.block_n) for group in groups]
    shares = launch.shares(heads * sum(tiles), batch * rows * cols, bias.device)
    partial = bias.new_empty((shares, heads, area, columns), dtype=torch.float32)
    for group, (key, value), programs in zip(groups, maps, tiles, strict=True):
        backward_bias_kernel[(shares, programs, heads)](
            call.query,
            key,
            value,
            bias[..., group.column :],
            lse,
            grad_out,
            delta,
            partial[..., group.column :],
            *map(token_strides, (call.query, key, value)),
            batch,
            rows,
            cols,
            heads,
            call.scale * LOG2_E,
            STEP=group.step,
            PAD=group.pad,
            SIZE=group.size,
            FINE=group.fine,
            BLOCK_M=launch.block_m,
            BLOCK_N=launch.block_n,
            **_constants(call),
            **launch.options,
        )
    total = partial.sum(0)
    kept = [total[..., g.column : g.column + g.size**2] for g in groups]
    return torch.cat(kept, dim=-1)


def backward(
    call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, needs_bias: bool
) -> tuple[Tensor, ...]:
    """Gradients of query, key, value, pooled key, pooled value and bias.

    All sums are gathered in a fixed order: two runs agree in every bit.

    Args:
        call: The forward pass's arguments.
        out: What it returned.
        lse: What it returned.
        grad_out: (B, H, W, h, d).
        needs_bias: Whether the last gradient is wanted; else it is empty.
    """
    settings = _settings(call)
    grad_out = grad_out.contiguous()
    bias = pack_bias(call.bias, call.geometry, call.query.dtype)
    grad_key, grad_value = torch.empty_like(out), torch.empty_like(out)
    grad_pooled_key = torch.empty_like(
        call.pooled_key, memory_format=torch.contiguous_format
    )
    grad_pooled_value = torch.empty_like(grad_pooled_key)
    maps = [(call.key, call.value)]
    grads = [(grad_key, grad_value)]
    for level in range(call.geometry.coarse_levels):
        pooled = (call.pooled_key, call.pooled_value)
        maps.append(tuple(call.level(tokens, level) for tokens in pooled))
        pooled = (grad_pooled_key, grad_pooled_value)
        grads.append(tuple(call.level(tokens, level) for tokens in pooled))
    with device_of(out):
        grad_query, delta = _backward_query(call, bias, out, lse, grad_out)
        shared = (transpose_bias(bias), lse, grad_out, delta)
        groups, _ = key_groups(call.geometry)
        for group, keys, written in zip(groups, maps, grads, strict=True):
            launch = settings.backward_fine if group.fine else settings.backward_pooled
            _backward_key(call, group, keys, written, shared, launch)
        if needs_bias:
            shared = (bias, lse, grad_out, delta)
            grad_bias = _backward_bias(call, maps, shared, settings.backward_bias)
        else:
            grad_bias = bias.new_empty(0, dtype=torch.float32)
    return (
        grad_query,
        grad_key,
        grad_value,
        grad_pooled_key,
        grad_pooled_value,
        grad_bias,
    )
