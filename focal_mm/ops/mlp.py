"""The MLP of a block, for large maps on a CPU a chunk of tokens at a time.

The hidden tensor of a large map is four times the map. The system hands out memory of
that size as fresh pages, and touching them takes as long as the matrix products; a
chunk of it stays in the cache, and only what the backward pass needs is ever written.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK_BYTES = 8 << 20
"""Hidden activations of a chunk of tokens."""

LARGE_BYTES = 32 << 20
"""Hidden tensors above this are cut: the size up to which the C library's allocator
keeps memory for reuse (glibc's largest threshold on 64-bit systems)."""


def _chunks(weight: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Corresponding chunks of tensors that all have one row for each token."""
    tokens = max(1, CHUNK_BYTES // (len(weight) * weight.element_size()))
    return zip(*(tensor.split(tokens) for tensor in tensors), strict=True)


def _buffer(weight: Tensor, x: Tensor) -> Tensor:
    """Memory for the hidden activations of one chunk."""
    (first,) = next(_chunks(weight, x))
    return x.new_empty(len(first), len(weight))


class _ChunkedMlp(torch.autograd.Function):
    """(tokens, C) to (tokens, C); keeps the hidden tensor before the GELU only."""

    @staticmethod
    def forward(ctx, x, weight1, bias1, weight2, bias2, keep):
        output = torch.empty_like(x)
        buffer = _buffer(weight1, x)
        # One row stands for all where nothing is kept.
        hidden = x.new_empty(len(x) if keep else 1, len(weight1))
        hidden = hidden.expand(len(x), -1)
        for part, kept, out in _chunks(weight1, x, hidden, output):
            active = buffer[: len(part)]
            before = kept if keep else active
            torch.addmm(bias1, part, weight1.t(), out=before)
            torch.ops.aten.gelu.out(before, out=active)
            torch.addmm(bias2, active, weight2.t(), out=out)
        if keep:
            ctx.save_for_backward(x, hidden, weight1, weight2)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, hidden, weight1, weight2 = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        grad_weights = torch.zeros_like(weight1), torch.zeros_like(weight2)
        grad_bias1 = weight1.new_zeros(len(weight1))
        buffer = _buffer(weight1, x)
        grad_buffer = torch.empty_like(buffer)
        for part, before, grad, target in _chunks(weight1, x, hidden, gradient, grad_x):
            active, grad_hidden = buffer[: len(part)], grad_buffer[: len(part)]
            torch.ops.aten.gelu.out(before, out=active)
            grad_weights[1].addmm_(grad.t(), active)
            torch.mm(grad, weight2, out=grad_hidden)
            torch.ops.aten.gelu_backward.grad_input(
                grad_hidden, before, grad_input=grad_hidden
            )
            grad_weights[0].addmm_(grad_hidden.t(), part)
            grad_bias1.add_(grad_hidden.sum(0))
            torch.mm(grad_hidden, weight1, out=target)
        grad_bias2 = gradient.sum(0)
        return grad_x, grad_weights[0], grad_bias1, grad_weights[1], grad_bias2, None


def _autocasts() -> bool:
    """Whether products on a CPU are being rounded to half precision."""
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # Before PyTorch 2.4 it has no argument.
        return torch.is_autocast_cpu_enabled()


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
    hidden_bytes = x.numel() // x.shape[-1] * len(weight1) * x.element_size()
    whole = (
        hidden_bytes <= LARGE_BYTES
        or x.device.type != "cpu"
        or _autocasts()
        or torch.compiler.is_compiling()
        or torch.jit.is_tracing()
    )
    if whole:
        return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)
    arguments = x.flatten(0, -2), weight1, bias1, weight2, bias2
    keep = torch.is_grad_enabled() and any(a.requires_grad for a in arguments)
    out = _ChunkedMlp.apply(*arguments, keep)
    return out.view(*x.shape[:-1], -1)
