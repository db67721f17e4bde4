"""The attention module: projections, bias tables, and the call into the ops."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from focal_mm.ops import FocalGeometry, focal_attention
from focal_mm.ops.geometry import region_bias_index, window_bias_index


class FocalAttention(nn.Module):
    """Multi-head focal attention with relative position bias (paper, equations 2, 3).

    Args:
        embed_dims: Channels C.
        num_heads: Heads h.
        geometry: The sizes.
        qkv_bias: Whether the projection to query, key and value has a bias.
        qk_scale: Factor of the queries. Default: ``(C / h) ** -0.5``.
        attn_drop_rate: Dropout of the attention weights.
        proj_drop_rate: Dropout of the output.
        backend: See :func:`focal_mm.ops.focal_attention`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        geometry: FocalGeometry,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.geometry = geometry
        self._unshifted = dataclasses.replace(geometry, shift_size=0)
        self.scale = qk_scale or (embed_dims // num_heads) ** -0.5
        self.backend = backend
        self.attn_drop_rate = attn_drop_rate

        size = geometry.window_size
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * size - 1) ** 2, num_heads)
        )
        if geometry.expand_size:
            self.relative_position_bias_table_to_neighbors = nn.Parameter(
                torch.empty(1, num_heads, geometry.window_area, geometry.num_neighbors)
            )
            nn.init.trunc_normal_(
                self.relative_position_bias_table_to_neighbors, std=0.02
            )
        self.relative_position_bias_table_to_windows = nn.ParameterList(
            nn.Parameter(
                torch.empty(num_heads, (size + geometry.region_size(level) - 1) ** 2)
            )
            for level in range(geometry.coarse_levels)
        )
        for table in self.relative_position_bias_table_to_windows:
            nn.init.trunc_normal_(table, std=0.02)

        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def _window_bias(self) -> Tensor:
        table = self.relative_position_bias_table
        index = window_bias_index(self.geometry.window_size, table.device)
        return table[index.flatten()].view(*index.shape, -1).permute(2, 0, 1)

    def _neighbor_bias(self) -> Tensor | None:
        if not self.geometry.expand_size:
            return None
        return self.relative_position_bias_table_to_neighbors.squeeze(0)

    def _pooled_biases(self) -> list[Tensor]:
        biases = []
        for level, table in enumerate(self.relative_position_bias_table_to_windows):
            region = self.geometry.region_size(level)
            index = region_bias_index(self.geometry.window_size, region, table.device)
            biases.append(table[:, index.flatten()].unflatten(1, index.shape))
        return biases

    def forward(
        self, x: Tensor, pooled: Sequence[Tensor], shifted: bool = False
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, H, W, C), H and W multiples of the window size.
            pooled: Per coarse level the pooled map, (B, Hk, Wk, C).
            shifted: Whether the map was rolled by ``-geometry.shift_size``.

        Returns:
            (B, H, W, C).
        """
        query, key, value = (
            self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
        )
        # Pooled tokens are keys and values only: their queries are not computed.
        channels = x.shape[-1]
        weight = self.qkv.weight[channels:]
        bias = None if self.qkv.bias is None else self.qkv.bias[channels:]
        pooled_keys, pooled_values = [], []
        for tokens in pooled:
            both = nn.functional.linear(tokens, weight, bias)
            both = both.unflatten(-1, (2, self.num_heads, -1))
            pooled_keys.append(both.select(-3, 0))
            pooled_values.append(both.select(-3, 1))
        out = focal_attention(
            query,
            key,
            value,
            pooled_keys,
            pooled_values,
            self._window_bias(),
            self._neighbor_bias(),
            self._pooled_biases(),
            geometry=self.geometry if shifted else self._unshifted,
            scale=self.scale,
            dropout_p=self.attn_drop_rate if self.training else 0.0,
            backend=self.backend,
        )
        return self.proj_drop(self.proj(out.flatten(-2)))
