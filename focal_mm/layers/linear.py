"""Calling linear layers."""

from __future__ import annotations

from torch import Tensor, nn

from focal_mm.ops.linear import linear


def is_plain(layer: nn.Module) -> bool:
    """Whether a layer is nothing but its weight and bias.

    Adapters, quantisation and hooks that are put on a layer need it to be called.
    """
    hooks = (
        layer._forward_hooks,
        layer._forward_pre_hooks,
        layer._backward_hooks,
        layer._backward_pre_hooks,
    )
    return type(layer) is nn.Linear and not any(hooks)


def call_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """``layer(x)``, by the fastest way that there is for a plain one."""
    return linear(x, layer.weight, layer.bias) if is_plain(layer) else layer(x)
