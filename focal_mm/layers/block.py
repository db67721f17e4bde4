"""The Focal Transformer block."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm.layers.attention import MultiLevelAttention
from focal_mm.layers.linear import Mlp
from focal_mm.layers.pooling import SubWindowPooling, centre_to


class DropPath(nn.Module):
    """Drop a residual branch per sample in training (stochastic depth).

    Args:
        drop_prob: Probability of dropping the branch of a sample.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, ...) with some samples zeroed and the others scaled up."""
        if self.drop_prob == 0 or not self.training:
            return x
        keep = 1 - self.drop_prob
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"


class FocalBlock(nn.Module):
    """Norm, focal attention, residual; norm, MLP, residual.

    Args:
        embed_dims: Channels C.
        attn: The attention, whose geometry is the block's.
        focal_pool: How sub-windows are pooled.
        mlp_ratio: Hidden channels of the MLP over C.
        drop_rate: Dropout of the MLP.
        drop_path_rate: Stochastic depth of both branches.
        layer_scale_init_value: Start value of LayerScale; None for no LayerScale.
    """

    def __init__(
        self,
        embed_dims: int,
        attn: MultiLevelAttention,
        focal_pool: str = "fc",
        mlp_ratio: float = 4.0,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = None,
    ) -> None:
        super().__init__()
        geometry = self.geometry = attn.geometry
        self.norm1 = nn.LayerNorm(embed_dims)
        self.pool_layers = nn.ModuleList(
            SubWindowPooling(focal_pool, geometry.sub_window_size(level), embed_dims)
            for level in range(geometry.coarse_levels)
        )
        self.attn = attn
        self.norm2 = nn.LayerNorm(embed_dims)
        self.mlp = Mlp(embed_dims, int(embed_dims * mlp_ratio), drop_rate)
        self.drop_path = DropPath(drop_path_rate)
        if layer_scale_init_value is None:
            self.gamma_1 = self.gamma_2 = None
        else:
            start = torch.full((embed_dims,), float(layer_scale_init_value))
            self.gamma_1 = nn.Parameter(start)
            self.gamma_2 = nn.Parameter(start.clone())

    def _pool(self, x: Tensor) -> list[Tensor]:
        """Pooled maps of all coarse levels from the padded map (B, H, W, C)."""
        pooled = []
        for level, layer in enumerate(self.pool_layers):
            sides = [
                self.geometry.num_pooled(side, level) * layer.size
                for side in x.shape[1:3]
            ]
            pooled.append(layer(centre_to(x, *sides)))
        return pooled

    def _attend(self, x: Tensor) -> Tensor:
        """Attention branch of (B, H, W, C): pad, shift, attend, shift back, crop."""
        height, width = x.shape[1:3]
        size = self.geometry.window_size
        # A map of a single window's height or width is not shifted.
        shift = self.geometry.shift_size if min(height, width) > size else 0
        right, bottom = -width % size, -height % size
        if right or bottom:
            x = F.pad(x, (0, 0, 0, right, 0, bottom))
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        x = self.attn(x, self._pool(x), shifted=shift > 0)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :height, :width]

    def forward(self, x: Tensor) -> Tensor:
        """Transform a map (B, H, W, C) of any H and W."""
        branch = self._attend(self.norm1(x))
        x = x + self.drop_path(_scale(branch, self.gamma_1))
        branch = self.mlp(self.norm2(x))
        return x + self.drop_path(_scale(branch, self.gamma_2))


def _scale(x: Tensor, gamma: Tensor | None) -> Tensor:
    return x if gamma is None else x * gamma
