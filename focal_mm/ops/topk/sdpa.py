"""The default path: keys gathered once per window and PyTorch's fused attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.common.pyramid import at_least_float32
from focal_mm.ops.common.sdpa import biased_attention
from focal_mm.ops.common.windows import unwindow, window
from focal_mm.ops.topk.geometry import closest_keys
from focal_mm.ops.topk.inputs import TopKInputs


def _gather(fine: Tensor, pooled: tuple[Tensor, ...], index: Tensor) -> Tensor:
    """Keys (or values) of each window, for all heads at once.

    Args:
        fine: (B, H, W, h, d).
        pooled: Per coarse level (B, Hk, Wk, h, d).
        index: (windows, keys), tokens of all levels laid end to end.

    Returns:
        (B, windows, h, keys, d), a view.
    """
    tokens = torch.cat([tokens.flatten(1, 2) for tokens in (fine, *pooled)], dim=1)
    keys = tokens.index_select(1, index.flatten())
    return keys.unflatten(1, tuple(index.shape)).transpose(2, 3)


def _bias(inputs: TopKInputs, displacements: Tensor) -> Tensor:
    """Bias of each window's keys, at least float32: (windows, h, s², keys), a view.

    The queries of a window see a key at displacement (window centre - key) under an
    ``s × s`` patch of its level's table, so all of them are looked up at once.
    """
    size = inputs.geometry.window_size
    patches = []
    for level, table in zip(inputs.levels, inputs.bias_tables, strict=True):
        table = at_least_float32(table)
        squares = table.unfold(1, size, level.step).unfold(2, size, level.step)
        patches.append(squares.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1))
    bias = F.embedding(displacements, torch.cat(patches))
    return bias.unflatten(2, (-1, size * size)).permute(0, 2, 3, 1)


def sdpa_topk_attention(inputs: TopKInputs) -> Tensor:
    """Top-K attention with windows in the place of heads, for the whole batch."""
    size = inputs.geometry.window_size
    query = window(inputs.query, size).transpose(2, 3)
    index, displacements = closest_keys(inputs.levels, query.device).unbind()
    key = _gather(inputs.key, inputs.pooled_keys, index)
    value = _gather(inputs.value, inputs.pooled_values, index)
    bias = _bias(inputs, displacements).to(query.dtype)
    # Windows take the place of heads, so that one bias serves the whole batch.
    output = biased_attention(
        query.flatten(1, 2),
        key.flatten(1, 2),
        value.flatten(1, 2),
        bias.flatten(0, 1)[None],
        inputs.dropout_p,
        inputs.scale,
    )
    output = output.view(query.shape).transpose(2, 3)
    return unwindow(output, inputs.grid, size)


SDPA_TOPK = Backend("sdpa", sdpa_topk_attention)
