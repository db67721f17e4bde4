"""What a Focal Transformer has in place of Swin's parts, and what Swin lacks."""

from __future__ import annotations

import torch
from torch import Tensor

from focal_mm.checkpoint.interpolate import spread_halo, square_side
from focal_mm.layers import FocalAttention
from focal_mm.ops.window.geometry import FocalGeometry

REGION_BIAS = -4.0
"""Start of the biases of pooled tokens: they take part, but hardly count yet."""


def fold_merging(
    gamma: Tensor, beta: Tensor, reduction: Tensor
) -> tuple[Tensor, Tensor]:
    """Swin's patch merging as a 2×2 convolution.

    Swin normalises 2×2 tokens together: reduction(gamma (x - mean) / std + beta). A
    convolution of stride 2 with the kernel has reduction(gamma (x - mean)), which is
    std times the first part, so its bias must be std times the second.

    Args:
        gamma: Weight of the norm, (C, 2, 2).
        beta: Bias of the norm, (C, 2, 2).
        reduction: Weight of the linear layer, (2C, C, 2, 2).

    Returns:
        The kernel (2C, C, 2, 2), and the bias for tokens of unit std, (2C,).
    """
    patch = (1, 2, 3)
    scaled = reduction * gamma
    kernel = scaled - scaled.mean(patch, keepdim=True)
    return kernel, (reduction * beta).sum(patch)


def expand_size(window_size: int) -> int:
    """The paper's share of a window: 3 tokens of 7, 5 of 12."""
    return 3 * window_size // 7


def new_parameters(window_table: Tensor, stage: int) -> dict[str, Tensor]:
    """What a block has beside Swin's parameters, for two focal levels.

    Args:
        window_table: Its ``relative_position_bias_table``, ((2s-1)², h).
        stage: Its stage, 0 to 3, which decides the focal region at 224×224.
    """
    size, heads = (square_side(len(window_table)) + 1) // 2, window_table.shape[1]
    region = FocalAttention.options["focal_windows"][stage]
    bias_name = f"attn.{FocalAttention.bias_name}"
    entries = (heads, (size + region - 1) ** 2)
    return {
        f"{bias_name}_to_neighbors": neighbor_table(window_table, size),
        f"{bias_name}_to_windows.0": window_table.new_full(entries, REGION_BIAS),
        "pool_layers.0.weight": window_table.new_full((1, size**2), 1 / size**2),
        "pool_layers.0.bias": window_table.new_zeros(1),
    }


def neighbor_table(window_table: Tensor, size: int) -> Tensor:
    """``relative_position_bias_table_to_neighbors`` that goes on as the window's.

    Offsets beyond the window's take the nearest one that it has. A key that stands
    m times among the neighbours gets log(m) less in each place.

    Args:
        window_table: ((2s-1)², h).
        size: Side of a window s, which expands by :func:`expand_size`.

    Returns:
        (1, h, s², num_neighbors).
    """
    geometry = FocalGeometry(size, expand_size(size))
    query, key = torch.arange(size), torch.arange(geometry.halo_size)
    offset = query[:, None] - key[None, :] + geometry.expand_size
    offset = offset.clamp(1 - size, size - 1) + size - 1
    index = offset[:, None, :, None] * (2 * size - 1) + offset[None, :, None, :]
    field = window_table[index.reshape(size**2, -1)].permute(2, 0, 1)
    return spread_halo(field, geometry)[None]
