"""The readable reference: rolls, windows and masks as the released models have them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.common.windows import unwindow, window
from focal_mm.ops.window.geometry import (
    ROLLS,
    FocalGeometry,
    neighbor_index,
    region_mask,
    shift_mask,
)
from focal_mm.ops.window.inputs import AttentionInputs


def _neighbors(tokens: Tensor, geometry: FocalGeometry) -> Tensor:
    """Rolled tokens outside the window: (B, windows, num_neighbors, h, d)."""
    expand = geometry.expand_size
    rolled = [
        window(tokens.roll((row * expand, col * expand), (1, 2)), geometry.window_size)
        for row, col in ROLLS
    ]
    index = neighbor_index(geometry.window_size, expand, tokens.device)
    return torch.cat(rolled, dim=2)[:, :, index]


def _region(pooled: Tensor, geometry: FocalGeometry, level: int) -> Tensor:
    """Pooled tokens around each window: (B, windows, r_k², h, d); zeros outside."""
    stride, region = geometry.stride(level), geometry.region_size(level)
    pad = (region - stride) // 2
    padded = F.pad(pooled, (0, 0, 0, 0, pad, pad, pad, pad))
    regions = padded.unfold(1, region, stride).unfold(2, region, stride)
    return regions.permute(0, 1, 2, 5, 6, 3, 4).flatten(3, 4).flatten(1, 2)


def _keys(
    tokens: Tensor, pooled: tuple[Tensor, ...], geometry: FocalGeometry
) -> list[Tensor]:
    """Groups of keys (or values) of each window in the released order."""
    groups = [window(tokens, geometry.window_size)]
    if geometry.expand_size:
        groups.append(_neighbors(tokens, geometry))
    groups += [_region(p, geometry, level) for level, p in enumerate(pooled)]
    return groups


def naive_attention(inputs: AttentionInputs) -> Tensor:
    """Focal attention step by step, with every key and every weight in memory."""
    geometry, grid = inputs.geometry, inputs.grid
    device = inputs.query.device
    query = window(inputs.query, geometry.window_size) * inputs.scale
    keys = _keys(inputs.key, inputs.pooled_keys, geometry)
    values = _keys(inputs.value, inputs.pooled_values, geometry)

    logits = [torch.einsum("bwqhd,bwkhd->bwhqk", query, key) for key in keys]

    own = logits.pop(0) + inputs.window_bias
    if geometry.shift_size:
        own = (
            own
            + shift_mask(*grid, geometry.window_size, geometry.shift_size, device)[
                :, None
            ]
        )
    biased = [own]
    if inputs.neighbor_bias is not None:
        biased.append(logits.pop(0) + inputs.neighbor_bias)
    for level, bias in enumerate(inputs.pooled_biases):
        stride, region = geometry.stride(level), geometry.region_size(level)
        mask = region_mask(*grid, stride, region, device)[:, None, None]
        biased.append(logits.pop(0) + bias + mask)

    weights = torch.cat(biased, dim=-1).softmax(dim=-1)
    weights = F.dropout(weights, inputs.dropout_p, training=inputs.dropout_p > 0)
    value = torch.cat(values, dim=2)
    output = torch.einsum("bwhqk,bwkhd->bwqhd", weights.to(value.dtype), value)
    return unwindow(output, grid, geometry.window_size)


NAIVE = Backend("naive", naive_attention)
