"""Calling linear layers."""

from __future__ import annotations

import torch
import torch.nn.modules.module as all_modules
from torch import Tensor, nn

from focal_mm.ops.onednn import linear

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
