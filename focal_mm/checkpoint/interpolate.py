"""Resizing what depends on window and focal region sizes (paper, section 4.2).

Pure functions of tensors; all of them return their input where the sizes agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.window.geometry import (
    FocalGeometry,
    halo_sources,
    merge_halo_bias,
    relative_index,
)

_CPU = torch.device("cpu")


def resize_grid(maps: Tensor, size: tuple[int, int], mode: str = "bilinear") -> Tensor:
    """Resize the last two axes of (..., H, W); computed in float32."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    flat = maps.reshape(1, -1, *maps.shape[-2:]).float()
    resized = F.interpolate(flat, size=size, mode=mode, align_corners=False)
    return resized.view(*maps.shape[:-2], *size).to(maps.dtype)


def square_side(length: int) -> int:
    """Side of a square grid of ``length`` entries."""
    side = math.isqrt(length)
    if side * side != length:
        raise ValueError(f"{length} entries do not form a square")
    return side


def resize_square(table: Tensor, length: int) -> Tensor:
    """Resize the last axis of (..., g²), a square row by row, to ``length`` entries."""
    side, wanted = square_side(table.shape[-1]), square_side(length)
    grid = table.unflatten(-1, (side, side))
    return resize_grid(grid, (wanted, wanted)).flatten(-2)


def resize_window_table(table: Tensor, length: int) -> Tensor:
    """Resize ``relative_position_bias_table`` ((2s-1)², h) to (length, h)."""
    return resize_square(table.T, length).T.contiguous()


def resize_pos_embed(
    table: Tensor, grid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Resize ``absolute_pos_embed`` (1, rows * cols, C), bicubic."""
    maps = table.unflatten(1, grid).permute(0, 3, 1, 2)
    return resize_grid(maps, size, "bicubic").flatten(2).transpose(1, 2)


def resize_pool(weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Resize the weights of 'fc' pooling (1, g²) or of 'conv' pooling (C, 1, g, g).

    They are scaled by the ratio of areas, so that a constant map pools to the same
    value. What 'fc' pooling has for all channels, its bias too, 'conv' pooling takes
    for each.

    Raises:
        ValueError: If there are weights of more channels than are wanted.
    """
    if len(weight) not in (1, shape[0]):
        raise ValueError("pooling with weights of each channel")
    if weight.dim() > 1:
        flat, length = weight.flatten(1), math.prod(shape[1:])
        weight = resize_square(flat, length) * (flat.shape[1] / length)
        weight = weight.view(-1, *shape[1:])
    return weight.expand(*shape).contiguous()


def adapt_input_channels(weight: Tensor, channels: int) -> Tensor:
    """Fit the stem's convolution (D, 3, k, k) of RGB images to other channels.

    As timm does: one channel takes the sum, more take the three in turn, scaled so
    that the sum over channels keeps its size. Other than three are returned as they
    are.
    """
    if channels == 3 or weight.shape[1] != 3:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    turns = math.ceil(channels / 3)
    return weight.repeat(1, turns, 1, 1)[:, :channels] * (3 / channels)


def fine_geometry(window_rows: int, neighbors: int) -> FocalGeometry:
    """Window and expand size from the sizes of their tables.

    Args:
        window_rows: Rows of ``relative_position_bias_table``.
        neighbors: Last axis of ``relative_position_bias_table_to_neighbors``.
    """
    size = (square_side(window_rows) + 1) // 2
    inner = square_side(size**2 - neighbors // 4)
    return FocalGeometry(size, size - inner)


def resize_neighbor_table(
    neighbors: Tensor,
    window_table: Tensor,
    source: FocalGeometry,
    target: FocalGeometry,
) -> Tensor:
    """Resize ``relative_position_bias_table_to_neighbors`` to another window.

    For each query, window table and neighbour table together give a bias to every
    token of the ``(s + 2e)²`` halo; tokens that stand there twice count with the
    merged bias of both. That field is resized over query and key positions, and
    :func:`spread_halo` gives each token the weight that it says.

    Args:
        neighbors: (1, h, s², num_neighbors) of the source.
        window_table: ``relative_position_bias_table`` of the source.
        source: Sizes of the source.
        target: Sizes wanted.

    Returns:
        (1, h, s'², num_neighbors') of the target.

    Raises:
        ValueError: If a halo is not covered because 2 * expand_size > window_size.
    """
    if source == target:
        return neighbors
    for geometry in (source, target):
        if 2 * geometry.expand_size > geometry.window_size:
            raise ValueError(
                f"the neighbours of window {geometry.window_size} with expand size "
                f"{geometry.expand_size} do not cover a halo"
            )
    side = source.window_size
    index = relative_index(side, side, window_table.device)
    window = window_table[index.flatten()].unflatten(0, index.shape).permute(2, 0, 1)
    field = merge_halo_bias(
        window, neighbors.squeeze(0), source.window_size, source.expand_size
    )
    field = resize_square(field, target.halo_size**2).transpose(1, 2)
    field = resize_square(field, target.window_area).transpose(1, 2)

    return spread_halo(field, target)[None].to(neighbors.dtype)


def spread_halo(field: Tensor, geometry: FocalGeometry) -> Tensor:
    """Neighbour biases from a bias for every token of the halo.

    A token that stands m times in the released order gets log(m) less in each place.

    Args:
        field: (heads, queries, (s + 2e)²).
        geometry: Sizes, of which the halo is covered.

    Returns:
        (heads, queries, num_neighbors).
    """
    sources = halo_sources(geometry.window_size, geometry.expand_size, _CPU)
    total = geometry.window_area + geometry.num_neighbors
    copies = (sources < total).sum(1)
    place = torch.empty(total + 1, dtype=torch.int64)
    place[sources.flatten()] = torch.arange(len(sources)).repeat_interleave(
        sources.shape[1]
    )
    place = place[geometry.window_area : total]
    return field[..., place] - copies[place].log().to(field)
