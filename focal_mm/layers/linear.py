"""Linear layers, called by the fastest way for plain ones, and the MLP of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import torch.nn.modules.module as all_modules
from torch import Tensor, nn

from focal_mm.ops.onednn import linear, mlp

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)


def is_plain(module: nn.Module, kind: type[nn.Module] = nn.Linear) -> bool:
    """Whether a module is just what PyTorch made it, and need not be called.

    Adapters, quantisation, parametrisations and wrappers have another class or another
    ``forward``; hooks may be the module's own or those of all modules.
    """
    if torch.compiler.is_compiling() or type(module) is not kind:
        return False
    if "forward" in vars(module):
        return False
    # A PyTorch without these names gets its modules called.
    own = (getattr(module, name, True) for name in _HOOKS)
    shared = (getattr(all_modules, f"_global{name}", True) for name in _HOOKS)
    return not any((*own, *shared))


def project(layer: nn.Module, x: Tensor, first: int = 0) -> Tensor:
    """``layer(x)`` without its first channels, by the fastest way for a plain layer.

    Args:
        layer: A linear layer, or what an adapter has put in its place.
        x: (..., C).
        first: Channels of the output that are not wanted, nor computed if that can be
            helped.

    Returns:
        (..., D - first).
    """
    if not is_plain(layer):
        return layer(x)[..., first:] if first else layer(x)
    weight, bias = layer.weight, layer.bias
    if first:
        weight, bias = weight[first:], None if bias is None else bias[first:]
    return linear(x, weight, bias)


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
