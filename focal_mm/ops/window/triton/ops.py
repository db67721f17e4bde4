"""The attention as operators of torch: fakes for compilers, gradients for autograd.

The kernels are imported when an operator runs first, not with this module.
"""

from __future__ import annotations

import torch
from torch import Tensor

from focal_mm.ops.window.geometry import FocalGeometry

# `torch.library` reads the signatures, so that they spell the geometry out.


@torch.library.custom_op("focal_mm::attention", mutates_args=())
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    bias: Tensor,
    sizes: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Focal attention by the Triton kernels.

    Args:
        query: (B, H, W, h, d), any strides, as key and value.
        key: Keys.
        value: Values.
        pooled_key: (B, tokens of all levels, h, d), any strides, as pooled_value.
        pooled_value: Pooled values.
        bias: (h, s², keys) float32: of the halo's tokens, then of each level's.
        sizes: The fields of :class:`~focal_mm.ops.FocalGeometry` in their order.
        scale: Factor of the products.

    Returns:
        The output (B, H, W, h, d), and the logarithm to base 2 of the softmax's
        denominators (B, h, H, W) in float32, which has no gradient.
    """
    from focal_mm.ops.window.triton import launch

    geometry = FocalGeometry(*sizes)
    return launch.forward(
        launch.make_call(
            query, key, value, pooled_key, pooled_value, bias, geometry, scale
        )
    )


@attention.register_fake
def _(query, key, value, pooled_key, pooled_value, bias, sizes, scale):
    batch, height, width, heads, _ = query.shape
    out = value.new_empty(query.shape)
    lse = query.new_empty((batch, heads, height, width), dtype=torch.float32)
    return out, lse


@torch.library.custom_op("focal_mm::attention_backward", mutates_args=())
def attention_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_key: Tensor,
    pooled_value: Tensor,
    bias: Tensor,
    out: Tensor,
    lse: Tensor,
    sizes: list[int],
    scale: float,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of :func:`attention`'s tensors; the bias's is empty unless needed."""
    from focal_mm.ops.window.triton import launch

    geometry = FocalGeometry(*sizes)
    call = launch.make_call(
        query, key, value, pooled_key, pooled_value, bias, geometry, scale
    )
    return launch.backward(call, out, lse, grad_out, needs_bias)


@attention_backward.register_fake
def _(
    grad_out,
    query,
    key,
    value,
    pooled_key,
    pooled_value,
    bias,
    out,
    lse,
    sizes,
    scale,
    needs_bias,
):
    fine = [value.new_empty(tensor.shape) for tensor in (query, key, value)]
    pooled = [key.new_empty(tensor.shape) for tensor in (pooled_key, pooled_value)]
    grad_bias = bias.new_empty(bias.shape if needs_bias else 0, dtype=torch.float32)
    return (*fine, *pooled, grad_bias)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.sizes, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_out: Tensor, _):
    needs_bias = ctx.needs_input_grad[5]
    *grads, grad_bias = attention_backward(
        grad_out, *ctx.saved_tensors, ctx.sizes, ctx.scale, needs_bias
    )
    return (*grads, grad_bias if needs_bias else None, None, None)


attention.register_autograd(_backward, setup_context=_setup_context)
