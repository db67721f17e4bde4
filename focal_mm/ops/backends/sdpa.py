"""The default path: one halo of keys per window and PyTorch's fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.backends.base import AttentionInputs, Backend
from focal_mm.ops.geometry import (
    FocalGeometry,
    at_least_float32,
    cached_by_size,
    halo_sources,
    merge_halo_bias,
    region_mask,
    shift_mask,
)
from focal_mm.ops.windows import unwindow


def _wrap(tokens: Tensor, margin: int) -> Tensor:
    """Extend a map (B, H, W, ...) by ``margin`` tokens from its far side."""
    if margin == 0:
        return tokens
    tokens = torch.cat((tokens[:, -margin:], tokens, tokens[:, :margin]), dim=1)
    return torch.cat((tokens[:, :, -margin:], tokens, tokens[:, :, :margin]), dim=2)


def _patches(tokens: Tensor, size: int, stride: int) -> Tensor:
    """Squares of (B, H, W, h, d): a view (B, rows, cols, h, size, size, d)."""
    patches = tokens.unfold(1, size, stride).unfold(2, size, stride)
    return patches.permute(0, 1, 2, 3, 5, 6, 4)


def _keys(
    tokens: Tensor, pooled: tuple[Tensor, ...], geometry: FocalGeometry
) -> Tensor:
    """All keys (or values) of each window: (B, rows, cols, h, keys, d)."""
    halo = _wrap(tokens, geometry.expand_size)
    groups = [_patches(halo, geometry.halo_size, geometry.window_size)]
    for level, pooled_tokens in enumerate(pooled):
        stride, region = geometry.stride(level), geometry.region_size(level)
        pad = (region - stride) // 2
        padded = F.pad(pooled_tokens, (0, 0, 0, 0, pad, pad, pad, pad))
        groups.append(_patches(padded, region, stride))
    return torch.cat([group.flatten(4, 5) for group in groups], dim=4)


def _bias(inputs: AttentionInputs) -> Tensor:
    """Bias of all keys, the same for every window: (h, s², keys)."""
    geometry = inputs.geometry
    fine = at_least_float32(inputs.window_bias)
    if inputs.neighbor_bias is not None:
        sources = halo_sources(
            geometry.window_size, geometry.expand_size, inputs.query.device
        )
        fine = merge_halo_bias(inputs.window_bias, inputs.neighbor_bias, sources)
    return torch.cat((fine, *map(at_least_float32, inputs.pooled_biases)), dim=-1)


@cached_by_size
def _border_mask(
    rows: int,
    cols: int,
    fine_keys: int,
    levels: tuple[tuple[int, int], ...],
    device: torch.device,
) -> Tensor:
    """Logits of the keys of ``rows * cols`` windows at the map's border.

    Args:
        rows: Rows of windows.
        cols: Columns of windows.
        fine_keys: Keys that are not pooled, which no border hides.
        levels: Stride and region side of each coarse level.
        device: Where the result is put.

    Returns:
        float32, (rows * cols, 1, keys).
    """
    fine = torch.zeros(rows * cols, fine_keys, device=device)
    regions = [region_mask(rows, cols, *level, device) for level in levels]
    return torch.cat((fine, *regions), dim=-1)[:, None]


def _mask(inputs: AttentionInputs) -> Tensor | None:
    """What differs between windows: float32, (windows, 1 or s², keys), or None."""
    geometry, grid = inputs.geometry, inputs.grid
    device = inputs.query.device
    levels = tuple(
        (geometry.stride(level), geometry.region_size(level))
        for level in range(geometry.coarse_levels)
    )
    bordered = any(region > stride for stride, region in levels)
    if not bordered and not geometry.shift_size:
        return None
    border = _border_mask(*grid, geometry.halo_size**2, levels, device)
    if not geometry.shift_size:
        return border
    size, expand = geometry.window_size, geometry.expand_size
    own = shift_mask(*grid, size, geometry.shift_size, device)
    own = F.pad(own.unflatten(2, (size, size)), (expand,) * 4).flatten(2)
    return border + F.pad(own, (0, border.shape[-1] - own.shape[-1]))


def sdpa_attention(inputs: AttentionInputs) -> Tensor:
    """Focal attention without rolls and without duplicate keys.

    The window's own tokens and the rolled ones are together the wrapped
    ``(s + 2e)²`` halo of the window; keys that stand twice are merged into one with
    the bias of both (:func:`~focal_mm.ops.geometry.merge_halo_bias`).
    """
    geometry, (rows, cols) = inputs.geometry, inputs.grid
    batch, _, _, heads, channels = inputs.query.shape
    area, windows = geometry.window_area, rows * cols

    key = _keys(inputs.key, inputs.pooled_keys, geometry)
    value = _keys(inputs.value, inputs.pooled_values, geometry)
    query = _patches(inputs.query, geometry.window_size, geometry.window_size)
    bias, mask = _bias(inputs), _mask(inputs)
    if mask is None:
        shape = (batch * windows, heads)
        logits = bias[None]
    else:
        # Windows take the place of heads, so that one mask serves the whole batch.
        shape = (batch, windows * heads)
        logits = (bias + mask[:, None]).flatten(0, 1)[None]
    output = F.scaled_dot_product_attention(
        query.reshape(*shape, area, channels),
        key.reshape(*shape, -1, channels),
        value.reshape(*shape, -1, channels),
        attn_mask=logits.to(inputs.query.dtype),
        dropout_p=inputs.dropout_p,
        scale=inputs.scale,
    )
    output = output.view(batch, windows, heads, area, channels).transpose(2, 3)
    return unwindow(output, (rows, cols), geometry.window_size)


SDPA = Backend(
    name="sdpa",
    run=sdpa_attention,
    why_unavailable=lambda: "",
    why_unsupported=lambda inputs: "",
)
