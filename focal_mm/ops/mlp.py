"""The MLP of a block on a CPU, a chunk of tokens at a time.

The hidden tensor is four times the map. The system hands out memory of that size as
fresh pages, and touching them takes as long as the matrix products; a chunk of it
stays in the cache, and only what the backward pass needs is ever written.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from focal_mm.ops.linear import product, product_gelu, takes_onednn

CHUNK_BYTES = 16 << 20
"""Hidden activations of a chunk of tokens."""


def _chunks(weight: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Corresponding chunks of tensors that all have one row for each token."""
    tokens = max(1, CHUNK_BYTES // (len(weight) * weight.element_size()))
    return zip(*(tensor.split(tokens) for tensor in tensors), strict=True)


def _infer(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """(tokens, C) to (tokens, C), keeping nothing."""
    output = torch.empty_like(x)
    for part, out in _chunks(weight1, x, output):
        out.copy_(product(product_gelu(part, weight1, bias1), weight2, bias2))
    return output


class _Mlp(torch.autograd.Function):
    """(tokens, C) to (tokens, C); keeps the hidden tensor before the GELU only."""

    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2):
        output = torch.empty_like(x)
        kept = []
        for part, out in _chunks(weight1, x, output):
            hidden = product(part, weight1, bias1)
            out.copy_(product(F.gelu(hidden), weight2, bias2))
            kept.append(hidden)
        ctx.save_for_backward(x, weight1, weight2, *kept)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight1, weight2, *kept = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad_weight1, grad_weight2 = (
            torch.zeros_like(weight1),
            torch.zeros_like(weight2),
        )
        grad_bias1 = weight1.new_zeros(len(weight1))
        parts = _chunks(weight1, x, gradient, grad_x)
        for hidden, (part, grad, target) in zip(kept, parts, strict=True):
            grad_weight2.addmm_(grad.t(), F.gelu(hidden))
            grad_hidden = product(grad, weight2.t())
            torch.ops.aten.gelu_backward.grad_input(
                grad_hidden, hidden, grad_input=grad_hidden
            )
            grad_weight1.addmm_(grad_hidden.t(), part)
            grad_bias1.add_(grad_hidden.sum(0))
            target.copy_(product(grad_hidden, weight1.t()))
        grad_bias2 = gradient.sum(0)
        return grad_x, grad_weight1, grad_bias1, grad_weight2, grad_bias2


def mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """Linear layer, GELU, linear layer.

    Args:
        x: (..., C).
        weight1: (hidden, C).
        bias1: (hidden,).
        weight2: (C, hidden).
        bias2: (C,).

    Returns:
        (..., C).
    """
    parameters = weight1, bias1, weight2, bias2
    if not takes_onednn(x, *parameters):
        return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)
    tokens = x.flatten(0, -2)
    wanted = any(tensor.requires_grad for tensor in (x, *parameters))
    run = _Mlp.apply if torch.is_grad_enabled() and wanted else _infer
    return run(tokens, *parameters).view(x.shape)
