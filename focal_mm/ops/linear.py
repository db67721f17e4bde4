"""Linear layers on a CPU by oneDNN, which PyTorch carries with it.

PyTorch itself calls oneDNN for half precision and MKL for float32, where oneDNN takes
5 to 20 % less time. The operator is the one that ``torch.compile`` generates calls of;
it has no public name, so it is tried before it is used.
"""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` by oneDNN, without a gradient.

    Args:
        x: (tokens, C), float32.
        weight: (D, C), any strides.
        bias: (D,).

    Returns:
        (tokens, D).
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def product_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """GELU of :func:`product`, in one go."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "gelu", [], "none")


@functools.cache
def _why_not_onednn() -> str:
    """Why the operator cannot be used; empty if it can."""
    if not torch.backends.mkldnn.is_available():
        return "this PyTorch was built without it"
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode(False), torch.no_grad():
        x, weight, bias = (
            torch.randn(shape, generator=generator) for shape in ((3, 8), (5, 8), (5,))
        )
        exact = F.linear(x.double(), weight.double(), bias.double())
        try:
            plain, active = product(x, weight, bias), product_gelu(x, weight, bias)
            other = product(x[:, :5], weight.t())
        except (AttributeError, NotImplementedError, RuntimeError) as error:
            return " ".join(str(error).split())
        agree = (
            torch.allclose(plain.double(), exact, atol=1e-5)
            and torch.allclose(active.double(), F.gelu(exact), atol=1e-5)
            and torch.allclose(other, x[:, :5] @ weight, atol=1e-5)
        )
    return "" if agree else "its results differ from those of float64"


@functools.cache
def _onednn_works() -> bool:
    reason = _why_not_onednn()
    if reason:
        print_log(f"linear layers on the CPU run without oneDNN: {reason}", "current")
    return not reason


def _autocasts() -> bool:
    """Whether products on a CPU are being rounded to half precision."""
    try:
        return torch.is_autocast_enabled("cpu")
    except TypeError:  # Before PyTorch 2.4 it has no argument.
        return torch.is_autocast_cpu_enabled()


def takes_onednn(x: Tensor, *parameters: Tensor) -> bool:
    """Whether linear layers of these tensors are oneDNN's.

    Not those of tensor subclasses (sharded, fake, quantised), and not where operators
    are watched (to count FLOPs): these know PyTorch's own.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if _get_current_dispatch_mode() is not None:
        return False
    tensors = (x, *parameters)
    return (
        all(type(tensor) in (Tensor, nn.Parameter) for tensor in tensors)
        and all(tensor.dtype == torch.float32 for tensor in tensors)
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and x.numel() > 0
        and not _autocasts()
        and torch.backends.mkldnn.enabled
        and _onednn_works()
    )


class _Linear(torch.autograd.Function):
    """(tokens, C) to (tokens, D)."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            product(gradient, weight.t()) if needs_x else None,
            # MKL's is the faster one here.
            gradient.t() @ x if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A linear layer.

    Args:
        x: (..., C).
        weight: (D, C).
        bias: (D,) or None.

    Returns:
        (..., D).
    """
    parameters = [weight] if bias is None else [weight, bias]
    if not takes_onednn(x, *parameters):
        return F.linear(x, weight, bias)
    out = _Linear.apply(x.flatten(0, -2), weight, bias)
    return out.unflatten(0, x.shape[:-1])
