"""The attention as an operator of torch: a fake for compilers, gradients for autograd.

The kernels are imported when an operator runs first, not with this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from focal_mm.ops.common.triton.launch import Call


def _setup_context(ctx, inputs, output) -> None:
    query, keys, values, biases, ctx.sizes, ctx.scale = inputs
    ctx.save_for_backward(query, *keys, *values, *biases, *output)
    ctx.mark_non_differentiable(output[1])


def _refuse(ctx, *grads: Tensor | None) -> None:
    raise NotImplementedError(
        "the Triton kernels of focal attention have first derivatives only: "
        "attn_backend='sdpa' has second ones"
    )


# Written out, since annotations are strings here.
_FORWARD = """(
    Tensor query, Tensor[] keys, Tensor[] values, Tensor[] biases, SymInt[] sizes,
    float scale
) -> (Tensor, Tensor)"""
_BACKWARD = """(
    Tensor grad_out, Tensor query, Tensor[] keys, Tensor[] values, Tensor[] biases,
    Tensor out, Tensor lse, SymInt[] sizes, float scale, bool needs_biases
) -> Tensor[]"""


def attention_operator(
    name: str, call: Callable[[], type[Call]]
) -> torch.library.CustomOpDef:
    """Make the operator ``focal_mm::name`` and that of its gradients.

    Args:
        name: Name of the operator; that of its gradients is ``name_backward``.
        call: Imports and returns the key selection's side of a launch.

    Returns:
        The operator. Its arguments are the query (B, H, W, h, d); per group of keys,
        the fine one first, the keys and the values, each (B, Hk, Wk, h, d), and the
        biases as the key selection has them; the fields of its geometry in their order;
        the factor of the products. Tensors may have any strides. It returns the output
        (B, H, W, h, d), and the logarithm to base 2 of the softmax's denominators
        (B, h, H, W) in float32, which has no gradient.
    """

    @torch.library.custom_op(f"focal_mm::{name}", mutates_args=(), schema=_FORWARD)
    def attention(
        query: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        biases: list[Tensor],
        sizes: list[int],
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        return call().of(query, keys, values, biases, sizes, scale).forward()

    @attention.register_fake
    def _(query, keys, values, biases, sizes, scale):
        batch, height, width, heads, _ = query.shape
        lse = query.new_empty((batch, heads, height, width), dtype=torch.float32)
        return query.new_empty(query.shape), lse

    @torch.library.custom_op(
        f"focal_mm::{name}_backward", mutates_args=(), schema=_BACKWARD
    )
    def attention_backward(
        grad_out: Tensor,
        query: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
        biases: list[Tensor],
        out: Tensor,
        lse: Tensor,
        sizes: list[int],
        scale: float,
        needs_biases: bool,
    ) -> list[Tensor]:
        """Gradients of all tensors in their order; those of biases where needed."""
        forward = call().of(query, keys, values, biases, sizes, scale)
        return forward.backward(out, lse, grad_out, needs_biases)

    @attention_backward.register_fake
    def _(grad_out, query, keys, values, biases, out, lse, sizes, scale, needs_biases):
        tensors = [query, *keys, *values, *(biases if needs_biases else ())]
        return [tensor.new_empty(tensor.shape) for tensor in tensors]

    def backward(ctx, grad_out: Tensor, _):
        query, *per_group, out, lse = ctx.saved_tensors
        groups = len(per_group) // 3
        lists = [per_group[i * groups : (i + 1) * groups] for i in range(3)]
        needs_biases = any(ctx.needs_input_grad[3])
        grad_query, *grads = attention_backward(
            grad_out, query, *lists, out, lse, ctx.sizes, ctx.scale, needs_biases
        )
        if not needs_biases:
            grads += [None] * groups
        lists = [grads[i * groups : (i + 1) * groups] for i in range(3)]
        return (grad_query, *lists, None, None)

    attention.register_autograd(backward, setup_context=_setup_context)
    attention_backward.register_autograd(_refuse)
    return attention
