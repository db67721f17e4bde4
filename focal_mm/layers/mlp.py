"""The MLP of a block."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm.ops.mlp import mlp


def _is_plain(linear: nn.Module) -> bool:
    """Whether a layer is nothing but its weight and bias.

    Adapters, quantisation and hooks that are put on a layer need it to be called.
    """
    hooks = (
        linear._forward_hooks,
        linear._forward_pre_hooks,
        linear._backward_hooks,
        linear._backward_pre_hooks,
    )
    return type(linear) is nn.Linear and not any(hooks)


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
        if (self.drop.p and self.training) or not all(map(_is_plain, layers)):
            return self.drop(self.fc2(self.drop(F.gelu(self.fc1(x)))))
        return mlp(x, self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
