"""Launching the kernels: lists of keys, tile sizes, grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.topk.geometry import Level, TopKGeometry, reach
from focal_mm.ops.topk.triton.backward_bias import topk_backward_bias_kernel
from focal_mm.ops.topk.triton.backward_key import topk_backward_key_kernel
from focal_mm.ops.topk.triton.backward_query import topk_backward_query_kernel
from focal_mm.ops.topk.triton.forward import topk_forward_kernel
from focal_mm.ops.topk.triton.tables import (
    displacement_visits,
    token_visits,
    window_keys,
)
from focal_mm.ops.window.triton.settings import (
    Launch,
    Settings,
    block_of,
    channels_contiguous,
    choose_settings,
    device_of,
    product_constants,
    token_strides,
)
from focal_mm.ops.window.triton.tiles import LOG2_E


@dataclass(frozen=True)
class Call:
    """Arguments of one attention, as the kernels want them.

    Attributes:
        query: (B, H, W, h, d); channels are contiguous.
        keys, values: Per level, the fine one first, (B, Hk, Wk, h, d), likewise.
        tables: Per level (h, R, C) contiguous.
        geometry: The sizes.
        scale: Factor of the products.
    """

    query: Tensor
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    tables: tuple[Tensor, ...]
    geometry: TopKGeometry
    scale: float

    @property
    def grid(self) -> tuple[int, int]:
        """Windows of the map, (rows, columns)."""
        size = self.geometry.window_size
        return self.query.shape[1] // size, self.query.shape[2] // size

    @property
    def levels(self) -> tuple[Level, ...]:
        """The maps that keys are taken from."""
        return self.geometry.levels(*self.grid)

    @property
    def settings(self) -> Settings:
        """How the kernels are started."""
        return choose_settings(self.geometry, self.query.shape[-1], self.query.dtype)


def make_call(
    query: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    tables: Sequence[Tensor],
    geometry: TopKGeometry,
    scale: float,
) -> Call:
    """A :class:`Call`.

    Copies only tables that are not contiguous, and tensors whose channels are not.
    """
    return Call(
        channels_contiguous(query),
        tuple(map(channels_contiguous, keys)),
        tuple(map(channels_contiguous, values)),
        tuple(table.contiguous() for table in tables),
        geometry,
        scale,
    )


def _constants(call: Call, launch: Launch) -> dict[str, object]:
    """Compile-time arguments and options that all kernels share."""
    return dict(
        S=call.geometry.window_size,
        BLOCK_M=launch.block_m,
        **product_constants(call.query),
        **launch.options,
    )


def _level_arguments(call: Call) -> tuple[object, ...]:
    """What the kernels that visit all levels take between strides and heads."""
    rows, cols = call.grid
    counts = tuple(level.num_keys for level in call.levels)
    return (
        token_strides(call.query),
        tuple(map(token_strides, call.keys)),
        tuple(map(token_strides, call.values)),
        tuple(level.shape[1] for level in call.levels),
        counts,
        tuple(table[0].numel() for table in call.tables),
        tuple(table.shape[2] for table in call.tables),
        sum(counts),
        rows,
        cols,
    )


def _level_constants(call: Call, launch: Launch) -> dict[str, object]:
    """Compile-time arguments of those kernels; few keys take a small tile."""
    blocks = (min(launch.block_n, block_of(level.num_keys)) for level in call.levels)
    return dict(
        LEVELS=len(call.levels), BLOCKS_N=tuple(blocks), **_constants(call, launch)
    )


def _window_grid(call: Call, launch: Launch) -> tuple[int, int, int]:
    """Programs of those kernels: windows and tiles of queries, images, heads."""
    rows, cols = call.grid
    tiles = -(-call.geometry.window_area // launch.block_m)
    return rows * cols * tiles, call.query.shape[0], call.query.shape[3]


def _window_keys(call: Call) -> Tensor:
    return window_keys(call.levels, call.geometry.window_size, call.query.device)


def forward(call: Call) -> tuple[Tensor, Tensor]:
    """Output (B, H, W, h, d), and the denominators' logarithm (B, h, H, W) float32."""
    batch, height, width, heads, _ = call.query.shape
    launch = call.settings.forward
    out = torch.empty(
        call.query.shape, dtype=call.query.dtype, device=call.query.device
    )
    lse = out.new_empty((batch, heads, height, width), dtype=torch.float32)
    with device_of(out):
        topk_forward_kernel[_window_grid(call, launch)](
            call.query,
            call.keys,
            call.values,
            call.tables,
            _window_keys(call),
            out,
            lse,
            *_level_arguments(call),
            heads,
            call.scale * LOG2_E,
            **_level_constants(call, launch),
        )
    return out, lse


def _backward_query(
    call: Call, out: Tensor, lse: Tensor, grad_out: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient of the queries, and ``delta`` for the other kernels."""
    launch = call.settings.backward_query
    grad_query, delta = torch.empty_like(out), torch.empty_like(lse)
    topk_backward_query_kernel[_window_grid(call, launch)](
        call.query,
        call.keys,
        call.values,
        call.tables,
        _window_keys(call),
        out,
        lse,
        grad_out,
        grad_query,
        delta,
        *_level_arguments(call),
        call.query.shape[3],
        call.scale * LOG2_E,
        call.scale,
        **_level_constants(call, launch),
    )
    return grad_query, delta


def _backward_key(
    call: Call, number: int, shared: tuple[Tensor, ...], launch: Launch
) -> tuple[Tensor, Tensor]:
    """Gradients of one level's keys and values, (B, Hk, Wk, h, d)."""
    key, value, table = (maps[number] for maps in (call.keys, call.values, call.tables))
    level, size = call.levels[number], call.geometry.window_size
    tile = (launch.tile_rows, launch.tile_cols)
    visits = token_visits(level, size, tile, key.device)
    batch, map_rows, map_cols, heads, _ = key.shape
    grad_key = torch.empty(key.shape, dtype=key.dtype, device=key.device)
    grad_value = torch.empty_like(grad_key)
    topk_backward_key_kernel[(len(visits.starts) - 1, batch, heads)](
        call.query,
        key,
        value,
        table,
        *visits,
        *shared,
        grad_key,
        grad_value,
        *map(token_strides, (call.query, key, value, grad_key)),
        map_rows,
        map_cols,
        table[0].numel(),
        table.shape[2],
        *call.grid,
        heads,
        call.scale * LOG2_E,
        call.scale,
        TILE_ROWS=launch.tile_rows,
        TILE_COLS=launch.tile_cols,
        **_constants(call, launch),
    )
    return grad_key, grad_value


def _backward_bias(
    call: Call, number: int, shared: tuple[Tensor, ...], launch: Launch
) -> Tensor:
    """Gradient of one level's bias table."""
    key, value, table = (maps[number] for maps in (call.keys, call.values, call.tables))
    level, size = call.levels[number], call.geometry.window_size
    visits, order, places = displacement_visits(level, size, launch.block_n, key.device)
    (rows, cols), area = call.grid, call.geometry.window_area
    batch, heads = key.shape[0], key.shape[3]
    programs = len(places) // launch.block_n * -(-area // launch.block_m)
    shares = launch.shares(heads * programs, batch * rows * cols, key.device)
    partial = table.new_empty((shares, heads, area, len(places)), dtype=torch.float32)
    topk_backward_bias_kernel[(shares, programs, heads)](
        call.query,
        key,
        value,
        table,
        places,
        *visits,
        *shared,
        partial,
        *map(token_strides, (call.query, key, value)),
        key.shape[2],
        table[0].numel(),
        table.shape[2],
        batch,
        rows,
        cols,
        heads,
        call.scale * LOG2_E,
        BLOCK_N=launch.block_n,
        **_constants(call, launch),
    )
    # Each displacement's s × s square of the table; squares overlap on the fine level.
    displacements = [2 * most + 1 for most in reach(level)]
    squares = partial.new_zeros((heads, area, displacements[0] * displacements[1]))
    squares.index_copy_(2, order, partial.sum(0)[..., : len(order)])
    total = F.fold(squares, table.shape[1:], kernel_size=size, stride=level.step)
    return total.squeeze(1).to(table.dtype)


def backward(
    call: Call, out: Tensor, lse: Tensor, grad_out: Tensor, needs_tables: bool
) -> list[Tensor]:
    """Gradients of the query, of all levels' keys, values and bias tables.

    All sums are gathered in a fixed order: two runs agree in every bit.

    Args:
        call: The forward pass's arguments.
        out: What it returned.
        lse: What it returned.
        grad_out: (B, H, W, h, d).
        needs_tables: Whether the tables' gradients are wanted; else they are left out.
    """
    settings = call.settings
    grad_out = grad_out.contiguous()
    grad_keys, grad_values, grad_tables = [], [], []
    with device_of(out):
        grad_query, delta = _backward_query(call, out, lse, grad_out)
        shared = (lse, grad_out, delta)
        for number in range(len(call.levels)):
            launch = settings.backward_pooled if number else settings.backward_fine
            grad_key, grad_value = _backward_key(call, number, shared, launch)
            grad_keys.append(grad_key)
            grad_values.append(grad_value)
            if needs_tables:
                launch = settings.backward_bias
                grad_tables.append(_backward_bias(call, number, shared, launch))
    return [grad_query, *grad_keys, *grad_values, *grad_tables]
