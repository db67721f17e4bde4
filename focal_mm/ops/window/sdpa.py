"""The path for every device: one halo of keys per window, PyTorch's fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.common.windows import unwindow
from focal_mm.ops.window.geometry import FocalGeometry
from focal_mm.ops.window.halo import key_bias, key_mask, pad_region, squares, wrap
from focal_mm.ops.window.inputs import AttentionInputs


def _keys(
    tokens: Tensor, pooled: tuple[Tensor, ...], geometry: FocalGeometry
) -> Tensor:
    """All keys (or values) of each window: (B, rows, cols, h, keys, d)."""
    halo = wrap(tokens, geometry.expand_size)
    groups = [squares(halo, geometry.halo_size, geometry.window_size)]
    for level, pooled_tokens in enumerate(pooled):
        padded = pad_region(pooled_tokens, geometry, level)
        groups.append(
            squares(padded, geometry.region_size(level), geometry.stride(level))
        )
    return torch.cat([group.flatten(4, 5) for group in groups], dim=4)


def sdpa_attention(inputs: AttentionInputs) -> Tensor:
    """Focal attention without rolls and without duplicate keys."""
    geometry, (rows, cols) = inputs.geometry, inputs.grid
    batch, _, _, heads, channels = inputs.query.shape
    area, windows = geometry.window_area, rows * cols

    key = _keys(inputs.key, inputs.pooled_keys, geometry)
    value = _keys(inputs.value, inputs.pooled_values, geometry)
    query = squares(inputs.query, geometry.window_size, geometry.window_size)
    bias, mask = key_bias(inputs), key_mask(inputs)
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
