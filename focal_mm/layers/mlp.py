"""The MLP of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm.layers.linear import is_plain, project
from focal_mm.ops.onednn import mlp


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
        fc1, fc2, drop = self.fc1, self.fc2, self.drop
        drops = not is_plain(drop, nn.Dropout) or (drop.p and drop.training)
        if drops or not (is_plain(fc1) and is_plain(fc2)):
            return drop(project(fc2, drop(F.gelu(project(fc1, x)))))
        return mlp(x, fc1.weight, fc1.bias, fc2.weight, fc2.bias)
