"""The attention as operators of torch: fakes for compilers, gradients for autograd.

The kernels are imported when an operator runs first, not with this module.
"""

from __future__ import annotations

import torch
from torch import Tensor

from focal_mm.ops.topk.geometry import TopKGeometry

# `torch.library` reads the signatures: lists, and the geometry spelt out.


@torch.library.custom_op("focal_mm::topk_attention", mutates_args=())
def topk_attention(
    query: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    bias_tables: list[Tensor],
    sizes: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Top-K attention by the Triton kernels.

    Args:
        query: (B, H, W, h, d), any strides, as keys and values.
        keys: Per level, the fine one first, (B, Hk, Wk, h, d).
        values: As keys.
        bias_tables: Per level (h, R, C), any floating dtype and strides.
        sizes: The fields of :class:`~focal_mm.ops.TopKGeometry` in their order.
        scale: Factor of the products.

    Returns:
        The output (B, H, W, h, d), and the logarithm to base 2 of the softmax's
        denominators (B, h, H, W) in float32, which has no gradient.
    """
    from focal_mm.ops.topk.triton import launch

    geometry = TopKGeometry(*sizes)
    return launch.forward(
        launch.make_call(query, keys, values, bias_tables, geometry, scale)
    )


@topk_attention.register_fake
def _(query, keys, values, bias_tables, sizes, scale):
    batch, height, width, heads, _ = query.shape
    lse = query.new_empty((batch, heads, height, width), dtype=torch.float32)
    return query.new_empty(query.shape), lse


@torch.library.custom_op("focal_mm::topk_attention_backward", mutates_args=())
def topk_attention_backward(
    grad_out: Tensor,
    query: Tensor,
    keys: list[Tensor],
    values: list[Tensor],
    bias_tables: list[Tensor],
    out: Tensor,
    lse: Tensor,
    sizes: list[int],
    scale: float,
    needs_tables: bool,
) -> list[Tensor]:
    """Gradients of :func:`topk_attention`'s tensors in their order.

    Those of the bias tables are left out unless they are needed.
    """
    from focal_mm.ops.topk.triton import launch

    geometry = TopKGeometry(*sizes)
    call = launch.make_call(query, keys, values, bias_tables, geometry, scale)
    return launch.backward(call, out, lse, grad_out, needs_tables)


@topk_attention_backward.register_fake
def _(
    grad_out,
    query,
    keys,
    values,
    bias_tables,
    out,
    lse,
    sizes,
    scale,
    needs_tables,
):
    tensors = [query, *keys, *values, *(bias_tables if needs_tables else ())]
    return [tensor.new_empty(tensor.shape) for tensor in tensors]


def _setup_context(ctx, inputs, output) -> None:
    query, keys, values, bias_tables, ctx.sizes, ctx.scale = inputs
    ctx.save_for_backward(query, *keys, *values, *bias_tables, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, grad_out: Tensor, _):
    query, *per_level, out, lse = ctx.saved_tensors
    levels = len(per_level) // 3
    lists = [per_level[i * levels : (i + 1) * levels] for i in range(3)]
    needs_tables = any(ctx.needs_input_grad[3])
    grad_query, *grads = topk_attention_backward(
        grad_out, query, *lists, out, lse, ctx.sizes, ctx.scale, needs_tables
    )
    if not needs_tables:
        grads += [None] * levels
    lists = [grads[i * levels : (i + 1) * levels] for i in range(3)]
    return (grad_query, *lists, None, None)


topk_attention.register_autograd(_backward, setup_context=_setup_context)
