"""What the attention of all key selections shares."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from focal_mm.layers.linear import project
from focal_mm.ops.common.pyramid import WindowPyramid


class MultiLevelAttention(nn.Module, abc.ABC):
    """Multi-head attention of a map's windows to the map and its pooled maps.

    A subclass is a key selection: it owns the position biases, calls the op, and says
    which options of the backbone it has.

    Args:
        embed_dims: Channels C.
        num_heads: Heads h.
        geometry: The sizes.
        qkv_bias: Whether the projection to query, key and value has a bias.
        qk_scale: Factor of the queries. Default: ``(C / h) ** -0.5``.
        attn_drop_rate: Dropout of the attention weights.
        proj_drop_rate: Dropout of the output.
        backend: 'auto' or the name of a backend of the op.

    Attributes:
        bias_name: How the names of the position biases' parameters begin; a
            checkpoint's key selection is known by them.
        max_focal_levels: Focal levels that it is defined for.
        options: The backbone's options that it has, with their defaults: one value
            for all stages or one for each.
    """

    bias_name: ClassVar[str]
    max_focal_levels: ClassVar[int]
    options: ClassVar[Mapping[str, Any]]

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

    @staticmethod
    @abc.abstractmethod
    def block_geometry(
        block: int, window_size: int, coarse_levels: int, **options: Any
    ) -> WindowPyramid:
        """The sizes of one block.

        Args:
            block: 0-based index in its stage.
            window_size: Side of a window.
            coarse_levels: Number of coarse levels.
            **options: The values of :attr:`options` in the block's stage.

        Raises:
            ValueError: If a value is out of range.
        """

    @abc.abstractmethod
    def _make_biases(self) -> None:
        """Register the parameters of the position biases."""

    @abc.abstractmethod
    def _attend(self, shifted: bool, *maps: Tensor | Sequence[Tensor]) -> Tensor:
        """Call the op of the key selection with its biases.

        Args:
            shifted: Whether the map was rolled by ``-geometry.shift_size``.
            *maps: Query, key and value, (B, H, W, h, d); then pooled keys and pooled
                values, per coarse level (B, Hk, Wk, h, d).

        Returns:
            (B, H, W, h, d).
        """

    @property
    def _settings(self) -> dict[str, Any]:
        """Arguments that all ops have."""
        return dict(
            scale=self.scale,
            dropout_p=self.attn_drop_rate if self.training else 0.0,
            backend=self.backend,
        )

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
        heads, channels = self.num_heads, x.shape[-1]
        fine = project(self.qkv, x).unflatten(-1, (3, heads, -1)).unbind(-3)
        pooled_keys, pooled_values = [], []
        for tokens in pooled:
            # Keys and values only: nobody asks for a pooled token's query.
            both = project(self.qkv, tokens, first=channels)
            key, value = both.unflatten(-1, (2, heads, -1)).unbind(-3)
            pooled_keys.append(key)
            pooled_values.append(value)
        out = self._attend(shifted, *fine, pooled_keys, pooled_values)
        return self.proj_drop(project(self.proj, out.flatten(-2)))
