"""The MLP of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm.layers.linear import is_plain
from focal_mm.ops.mlp import mlp


class Mlp(nn.Module):
    """Two linear layers with GELU between them.

    Args:
        embed_dims: Channels of input and output.
        hidden_dims: Channels between the layers.
        drop_rate: Dropout after each layer.
    """

    def __init__(self, embed_dims: int, hidden_dims: int, drop_rate: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dims, hidden_dims)
        self.fc2 = nn.Linear(hidden_dims, embed_dims)
        self.drop = nn.Dropout(drop_rate)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        layers = self.fc1, self.fc2
        if (self.drop.p and self.training) or not all(map(is_plain, layers)):
            return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))
        return mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
