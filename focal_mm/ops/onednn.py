"""Linear layers and the MLP on a CPU in float32, by oneDNN, which PyTorch carries.

PyTorch itself calls oneDNN for half precision and MKL for float32, where oneDNN takes
less time. The MLP besides runs a chunk of tokens at a time: its hidden tensor is four
times the map, the system hands out memory of that size as fresh pages, and touching
them takes as long as the products; a chunk stays in the cache. docs/performance.md has
what both buy: about a third of an inference, and a fifth of a training step.

The operator is the one that ``torch.compile`` generates calls of. It has no public
name, so it is tried before it is used, and it is for ordinary tensors only
(:mod:`focal_mm.ops.common.transforms`): all else goes to PyTorch's own layers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.common.log import log_once
from focal_mm.ops.common.transforms import is_ordinary, is_watched, plain_backward

CHUNK_BYTES = 16 << 20
"""Hidden activations of a chunk of tokens."""


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
def unavailable_reason() -> str:
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
            pairs = (
                (product(x, weight, bias), exact),
                (product_gelu(x, weight, bias), F.gelu(exact)),
                (product(x[:, :5], weight.t()), x[:, :5].double() @ weight.double()),
            )
        except (AttributeError, NotImplementedError, RuntimeError) as error:
            return " ".join(str(error).split())
        agree = all(torch.allclose(a.double(), b, atol=1e-5) for a, b in pairs)
    return "" if agree else "its results differ from those of float64"


def _takes(x: Tensor, *parameters: Tensor | None) -> bool:
    """Whether linear layers of these tensors are oneDNN's."""
    tensors = [x, *(tensor for tensor in parameters if tensor is not None)]
    # Operators are watched to count FLOPs, too, by PyTorch's own names for them.
    if is_watched() or not is_ordinary(*tensors):
        return False
    fits = (
        all(tensor.dtype == torch.float32 for tensor in tensors)
        and all(tensor.device.type == "cpu" for tensor in tensors)
        and x.numel() > 0
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.enabled
    )
    if fits and unavailable_reason():
        log_once(f"linear layers on the CPU run without oneDNN: {unavailable_reason()}")
    return fits and not unavailable_reason()


class _Linear(torch.autograd.Function):
    """(tokens, C) to (tokens, D)."""

    @staticmethod
    def forward(ctx, *inputs):
        ctx.save_for_backward(*inputs)
        return product(*inputs)

    @staticmethod
    def backward(ctx, gradient):
        inputs, needed = ctx.saved_tensors, ctx.needs_input_grad
        plain = plain_backward(F.linear, inputs, needed, gradient)
        if plain is not None:
            return plain
        x, weight, _ = inputs
        return (
            product(gradient, weight.t()) if needed[0] else None,
            # MKL's is the faster one here.
            gradient.t() @ x if needed[1] else None,
            gradient.sum(0) if needed[2] else None,
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
    if not _takes(x, weight, bias):
        return F.linear(x, weight, bias)
    out = _Linear.apply(x.flatten(0, -2), weight, bias)
    return out.unflatten(0, x.shape[:-1])


def _chunks(weight: Tensor, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Corresponding chunks of tensors that all have one row for each token."""
    tokens = max(1, CHUNK_BYTES // (len(weight) * weight.element_size()))
    return zip(*(tensor.split(tokens) for tensor in tensors), strict=True)


def _infer_mlp(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor
) -> Tensor:
    """(tokens, C) to (tokens, C), keeping nothing."""
    output = torch.empty_like(x)
    for part, out in _chunks(weight1, x, output):
        out.copy_(product(product_gelu(part, weight1, bias1), weight2, bias2))
    return output


def _plain_mlp(x: Tensor, *parameters: Tensor | None) -> Tensor:
    weight1, bias1, weight2, bias2 = parameters
    return F.linear(F.gelu(F.linear(x, weight1, bias1)), weight2, bias2)


class _Mlp(torch.autograd.Function):
    """(tokens, C) to (tokens, C); keeps the hidden tensor before the GELU only."""

    @staticmethod
    def forward(ctx, *inputs):
        x, weight1, bias1, weight2, bias2 = inputs
        output = torch.empty_like(x)
        kept = []
        for part, out in _chunks(weight1, x, output):
            hidden = product(part, weight1, bias1)
            out.copy_(product(F.gelu(hidden), weight2, bias2))
            kept.append(hidden)
        ctx.save_for_backward(*inputs, *kept)
        return output

    @staticmethod
    def backward(ctx, gradient):
        x, weight1, bias1, weight2, bias2, *kept = ctx.saved_tensors
        inputs = x, weight1, bias1, weight2, bias2
        plain = plain_backward(_plain_mlp, inputs, ctx.needs_input_grad, gradient)
        if plain is not None:
            return plain
        grad_x, grad_bias1 = torch.empty_like(x), torch.zeros_like(bias1)
        grad_weight1, grad_weight2 = map(torch.zeros_like, (weight1, weight2))
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
        return grad_x, grad_weight1, grad_bias1, grad_weight2, gradient.sum(0)


def mlp(
    x: Tensor,
    weight1: Tensor,
    bias1: Tensor | None,
    weight2: Tensor,
    bias2: Tensor | None,
) -> Tensor:
    """Linear layer, GELU, linear layer.

    Args:
        x: (..., C).
        weight1: (hidden, C).
        bias1: (hidden,) or None.
        weight2: (C, hidden).
        bias2: (C,) or None.

    Returns:
        (..., C).
    """
    parameters = weight1, bias1, weight2, bias2
    without_bias = bias1 is None or bias2 is None
    if without_bias or not _takes(x, *parameters):
        return _plain_mlp(x, *parameters)
    wanted = any(tensor.requires_grad for tensor in (x, *parameters))
    run = _Mlp.apply if torch.is_grad_enabled() and wanted else _infer_mlp
    return run(x.flatten(0, -2), *parameters).view(x.shape)
