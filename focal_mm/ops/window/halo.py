"""The keys of focal attention with each token once, as the fast backends have them.

A window's own tokens and the rolled ones are together the wrapped ``(s + 2e)²`` halo of
the window; keys that stand twice become one with the bias of both
(:func:`~focal_mm.ops.window.geometry.merge_halo_bias`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.common.pyramid import at_least_float32, cached_by_size
from focal_mm.ops.window.geometry import (
    FocalGeometry,
    merge_halo_bias,
    region_mask,
    shift_mask,
)
from focal_mm.ops.window.inputs import AttentionInputs


def wrap(tokens: Tensor, margin: int) -> Tensor:
    """A map with ``margin`` tokens around it, from its far side.

    Args:
        tokens: (B, H, W, ...).
        margin: Tokens on each side, at most H and W.

    Returns:
        (B, H + 2 * margin, W + 2 * margin, ...).
    """
    if margin == 0:
        return tokens
    tokens = torch.cat((tokens[:, -margin:], tokens, tokens[:, :margin]), dim=1)
    return torch.cat((tokens[:, :, -margin:], tokens, tokens[:, :, :margin]), dim=2)


def pad_region(pooled: Tensor, geometry: FocalGeometry, level: int) -> Tensor:
    """A pooled map (B, Hk, Wk, h, d) with zeros around it, as far as regions reach.

    In memory the heads come first, so that a region's rows can be copied at once.
    """
    pad = (geometry.region_size(level) - geometry.stride(level)) // 2
    padded = F.pad(pooled.permute(0, 3, 1, 2, 4), (0, 0, pad, pad, pad, pad))
    return padded.permute(0, 2, 3, 1, 4)


def squares(tokens: Tensor, size: int, stride: int) -> Tensor:
    """Squares of a map (B, H, W, h, d): a view (B, rows, cols, h, size, size, d)."""
    patches = tokens.unfold(1, size, stride).unfold(2, size, stride)
    return patches.permute(0, 1, 2, 3, 5, 6, 4)


def key_bias(inputs: AttentionInputs) -> Tensor:
    """Bias of all keys, the same for every window: (h, s², keys)."""
    geometry = inputs.geometry
    fine = at_least_float32(inputs.window_bias)
    if inputs.neighbor_bias is not None:
        sizes = geometry.window_size, geometry.expand_size
        fine = merge_halo_bias(inputs.window_bias, inputs.neighbor_bias, *sizes)
    return torch.cat((fine, *map(at_least_float32, inputs.pooled_biases)), dim=-1)


@cached_by_size
def _border_mask(
    geometry: FocalGeometry, rows: int, cols: int, device: torch.device
) -> Tensor:
    """Logits of all keys, which hide the pooled ones outside the map.

    Returns:
        float32, (rows * cols, 1, keys) for as many windows.
    """
    masks = [torch.zeros(rows * cols, geometry.halo_size**2, device=device)]
    for level in range(geometry.coarse_levels):
        stride, region = geometry.stride(level), geometry.region_size(level)
        masks.append(region_mask(rows, cols, stride, region, device))
    return torch.cat(masks, dim=-1)[:, None]


def key_mask(inputs: AttentionInputs) -> Tensor | None:
    """What differs between windows: float32, (windows, 1 or s², keys), or None."""
    geometry, grid = inputs.geometry, inputs.grid
    device = inputs.query.device
    bordered = geometry.coarse_levels and geometry.focal_window > 1
    if not bordered and not geometry.shift_size:
        return None
    border = _border_mask(geometry, *grid, device)
    if not geometry.shift_size:
        return border
    size, expand = geometry.window_size, geometry.expand_size
    own = shift_mask(*grid, size, geometry.shift_size, device)
    own = F.pad(own.unflatten(2, (size, size)), (expand,) * 4).flatten(2)
    return border + F.pad(own, (0, border.shape[-1] - own.shape[-1]))
