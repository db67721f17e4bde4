"""The readable reference: one window after the other, every distance computed."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.common.windows import unwindow, window
from focal_mm.ops.topk.geometry import Level
from focal_mm.ops.topk.inputs import TopKInputs


def _positions(rows: int, cols: int) -> Tensor:
    """(rows * cols, 2): row and column of each token of a map, on the CPU."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).view(-1, 2)


def _closest(place: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Keys of the window at ``place`` (row, column) of the grid of windows.

    Returns:
        Indices of the tokens (keys,), and their offsets in fine tokens from the key to
        the window's centre (keys, 2).
    """
    centre = place * level.per_window + level.per_window // 2
    tokens = _positions(*level.shape)
    distance = (centre - tokens).float().norm(dim=-1)
    index = torch.topk(-distance, min(level.topk, len(tokens))).indices
    return index, (centre - tokens[index]) * level.step


def _bias(table: Tensor, offsets: Tensor, window_size: int) -> Tensor:
    """Bias (h, s², keys) of one window from the offsets of its keys (keys, 2)."""
    queries = _positions(window_size, window_size) - window_size // 2
    pairs = queries[:, None] + offsets[None]
    # A table begins at the farthest displacement and the first query's -(s // 2).
    farthest = (torch.tensor(table.shape[1:]) - window_size) // 2
    row, col = (pairs + farthest + window_size // 2).unbind(-1)
    return table[:, row.to(table.device), col.to(table.device)]


def naive_topk_attention(inputs: TopKInputs) -> Tensor:
    """Top-K attention step by step, in a loop over the windows."""
    size = inputs.geometry.window_size
    queries = window(inputs.query, size) * inputs.scale
    key_maps = [m.flatten(1, 2) for m in (inputs.key, *inputs.pooled_keys)]
    value_maps = [m.flatten(1, 2) for m in (inputs.value, *inputs.pooled_values)]
    outputs = []
    for place, query in zip(_positions(*inputs.grid), queries.unbind(1), strict=True):
        logits, values = [], []
        for level, keys, its_values, table in zip(
            inputs.levels, key_maps, value_maps, inputs.bias_tables, strict=True
        ):
            index, offsets = _closest(place, level)
            index = index.to(keys.device)
            logit = torch.einsum("bqhd,bkhd->bhqk", query, keys[:, index])
            logits.append(logit + _bias(table, offsets, size))
            values.append(its_values[:, index])
        weights = torch.cat(logits, dim=-1).softmax(dim=-1)
        weights = F.dropout(weights, inputs.dropout_p, training=inputs.dropout_p > 0)
        value = torch.cat(values, dim=1)
        outputs.append(torch.einsum("bhqk,bkhd->bqhd", weights.to(value.dtype), value))
    return unwindow(torch.stack(outputs, dim=1), inputs.grid, size)


NAIVE_TOPK = Backend("naive", naive_topk_attention)
