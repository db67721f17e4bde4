"""The path for every device: one halo of keys per window, PyTorch's fused attention."""

from __future__ import annotations

import torch
from torch import Tensor

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.common.sdpa import biased_attention
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


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    *pooled: Tensor,
    geometry: FocalGeometry,
    scale: float,
    dropout_p: float = 0.0,
) -> Tensor:
    """Focal attention with the biases of all keys together.

    Args:
        query: (B, H, W, h, d).
        key: As ``query``.
        value: As ``query``.
        bias: (h, s², keys), see :func:`~focal_mm.ops.window.halo.key_bias`.
        mask: (windows, 1 or s², keys) or None.
        *pooled: Keys of each coarse level, then values, (B, Hk, Wk, h, d).
        geometry: The sizes.
        scale: Factor of the queries.
        dropout_p: Probability with which attention weights are dropped.

    Returns:
        (B, H, W, h, d).
    """
    batch, height, width, heads, channels = query.shape
    size, area, levels = geometry.window_size, bias.shape[1], geometry.coarse_levels
    rows, cols = height // size, width // size
    windows, dtype = rows * cols, query.dtype
    key = _keys(key, pooled[:levels], geometry)
    value = _keys(value, pooled[levels:], geometry)
    query = squares(query, size, size)
    if mask is None:
        shape = (batch * windows, heads)
        logits = bias[None]
    else:
        # Windows take the place of heads, so that one mask serves the whole batch.
        shape = (batch, windows * heads)
        logits = (bias + mask[:, None]).flatten(0, 1)[None]
    output = biased_attention(
        query.reshape(*shape, area, channels),
        key.reshape(*shape, -1, channels),
        value.reshape(*shape, -1, channels),
        logits.to(dtype),
        dropout_p,
        scale,
    )
    output = output.view(batch, windows, heads, area, channels).transpose(2, 3)
    return unwindow(output, (rows, cols), size)


def joined(inputs: AttentionInputs) -> tuple[Tensor | None, ...]:
    """The tensors that :func:`attend` takes."""
    maps = inputs.query, inputs.key, inputs.value
    pooled = inputs.pooled_keys + inputs.pooled_values
    return *maps, key_bias(inputs), key_mask(inputs), *pooled


def sdpa_attention(inputs: AttentionInputs) -> Tensor:
    """Focal attention without rolls and without duplicate keys."""
    sizes = dict(geometry=inputs.geometry, scale=inputs.scale)
    return attend(*joined(inputs), **sizes, dropout_p=inputs.dropout_p)


SDPA = Backend("sdpa", sdpa_attention)
