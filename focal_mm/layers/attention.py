"""The attention modules: projections, biases, and the call into the ops."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from focal_mm.layers.linear import call_linear
from focal_mm.ops import FocalGeometry, TopKGeometry, focal_attention, topk_attention
from focal_mm.ops.common.pyramid import WindowPyramid
from focal_mm.ops.topk.geometry import offset_grid
from focal_mm.ops.window.geometry import region_bias_index, window_bias_index


class MultiLevelAttention(nn.Module, abc.ABC):
    """Multi-head attention of a map's windows to the map and its pooled maps.

    What all key selections share. A subclass owns the position biases and names the
    op: :meth:`_make_biases` and :meth:`_op`.

    Args:
        embed_dims: Channels C.
        num_heads: Heads h.
        geometry: The sizes.
        qkv_bias: Whether the projection to query, key and value has a bias.
        qk_scale: Factor of the queries. Default: ``(C / h) ** -0.5``.
        attn_drop_rate: Dropout of the attention weights.
        proj_drop_rate: Dropout of the output.
        backend: 'auto' or the name of a backend of the op.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        geometry: WindowPyramid,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dims = embed_dims // num_heads
        self.geometry = geometry
        self.scale = qk_scale or self.head_dims**-0.5
        self.backend = backend
        self.attn_drop_rate = attn_drop_rate

        self._make_biases()
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    @abc.abstractmethod
    def _make_biases(self) -> None:
        """Register the parameters of the position biases."""

    @abc.abstractmethod
    def _op(self, x: Tensor, shifted: bool) -> Callable[..., Tensor]:
        """The op of the key selection, with its geometry and biases for a map.

        Args:
            x: The map, (B, H, W, C).
            shifted: Whether it was rolled by ``-geometry.shift_size``.

        Returns:
            A function of query, key, value, pooled keys and pooled values, and of what
            all ops have: ``scale``, ``dropout_p`` and ``backend``.
        """

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
            call_linear(self.qkv, x).unflatten(-1, (3, self.num_heads, -1)).unbind(-3)
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
        out = self._op(x, shifted)(
            query,
            key,
            value,
            pooled_keys,
            pooled_values,
            scale=self.scale,
            dropout_p=self.attn_drop_rate if self.training else 0.0,
            backend=self.backend,
        )
        return self.proj_drop(call_linear(self.proj, out.flatten(-2)))


class FocalAttention(MultiLevelAttention):
    """Focal attention: keys in fixed regions around each window (paper, equation 3).

    The relative position biases (equation 2) are tables. Arguments as in
    :class:`MultiLevelAttention`.
    """

    geometry: FocalGeometry

    def _make_biases(self) -> None:
        geometry, heads = self.geometry, self.num_heads
        size = geometry.window_size
        self._unshifted = dataclasses.replace(geometry, shift_size=0)
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * size - 1) ** 2, heads)
        )
        if geometry.expand_size:
            self.relative_position_bias_table_to_neighbors = nn.Parameter(
                torch.empty(1, heads, geometry.window_area, geometry.num_neighbors)
            )
            nn.init.trunc_normal_(
                self.relative_position_bias_table_to_neighbors, std=0.02
            )
        self.relative_position_bias_table_to_windows = nn.ParameterList(
            nn.Parameter(
                torch.empty(heads, (size + geometry.region_size(level) - 1) ** 2)
            )
            for level in range(geometry.coarse_levels)
        )
        for table in self.relative_position_bias_table_to_windows:
            nn.init.trunc_normal_(table, std=0.02)

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

    def _op(self, x: Tensor, shifted: bool) -> Callable[..., Tensor]:
        return functools.partial(
            focal_attention,
            window_bias=self._window_bias(),
            neighbor_bias=self._neighbor_bias(),
            pooled_biases=self._pooled_biases(),
            geometry=self.geometry if shifted else self._unshifted,
        )


class TopKAttention(MultiLevelAttention):
    """Top-K attention: the keys closest to each window (Focal-fast).

    The relative position bias of a level is a small MLP of the query-key offset in
    tokens, so its parameters do not depend on any size. It is evaluated once for each
    offset that occurs on the map, not for each pair. Arguments as in
    :class:`MultiLevelAttention`.
    """

    geometry: TopKGeometry

    def _make_biases(self) -> None:
        self.coord2rpb_all = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2, self.head_dims),
                nn.ReLU(),
                nn.Linear(self.head_dims, self.num_heads),
            )
            for _ in range(self.geometry.coarse_levels + 1)
        )

    def _bias_tables(self, rows: int, cols: int, device: torch.device) -> list[Tensor]:
        """Per level (h, R, C), the bias of each offset for a grid of windows."""
        tables = []
        levels = self.geometry.levels(rows, cols)
        # Offsets of hundreds of tokens are not exact in half precision.
        with torch.autocast(device.type, enabled=False):
            for level, mlp in zip(levels, self.coord2rpb_all, strict=True):
                offsets = offset_grid(level, self.geometry.window_size, device)
                table = mlp(offsets.to(mlp[0].weight.dtype))
                tables.append(table.permute(2, 0, 1))
        return tables

    def _op(self, x: Tensor, shifted: bool) -> Callable[..., Tensor]:
        rows, cols = (side // self.geometry.window_size for side in x.shape[1:3])
        return functools.partial(
            topk_attention,
            bias_tables=self._bias_tables(rows, cols, x.device),
            geometry=self.geometry,
        )


def attention_of(geometry: WindowPyramid) -> type[MultiLevelAttention]:
    """The module whose key selection a geometry is of."""
    return TopKAttention if isinstance(geometry, TopKGeometry) else FocalAttention
