"""The CPU path: exact attention of a few windows at a time, within the cache.

A chunk of windows copies its queries, keys and values from the maps straight into the
layout of two batched matrix products, with the softmax between them in place. Keys,
values and weights of the whole map are never in memory: the backward pass computes the
weights of each chunk again.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.common.log import log_once
from focal_mm.ops.common.transforms import is_ordinary, plain_backward
from focal_mm.ops.window.cpu.gradients import KeyGradients
from focal_mm.ops.window.cpu.loading import ChunkLoader
from focal_mm.ops.window.inputs import AttentionInputs
from focal_mm.ops.window.sdpa import attend, joined


class _ChunkedAttention(torch.autograd.Function):
    """(B, H, W, h, d) from the arguments of :class:`ChunkLoader`, the sizes first."""

    @staticmethod
    def forward(ctx, geometry, scale, query, key, value, bias, mask, *pooled):
        ctx.save_for_backward(query, key, value, bias, mask, *pooled)
        ctx.sizes = geometry, scale
        loader = ChunkLoader(query, key, value, bias, mask, pooled, geometry, scale)
        output = torch.empty_like(value, memory_format=torch.contiguous_format)
        targets = loader.windows(output)
        for chunk in loader.chunks:
            loaded = loader.load(chunk)
            for part, weights in loader.blocks(loaded):
                # In the place of the queries, which are of no use any more.
                torch.bmm(weights, loaded.value[part], out=loaded.query[part])
            target = chunk.of(targets)
            target.copy_(loaded.query.view(target.shape))
        return output

    @staticmethod
    def backward(ctx, gradient):
        (geometry, scale), inputs = ctx.sizes, ctx.saved_tensors
        plain = functools.partial(attend, geometry=geometry, scale=scale)
        gradients = plain_backward(plain, inputs, ctx.needs_input_grad[2:], gradient)
        if gradients is not None:
            return None, None, *gradients
        query, key, value, bias, mask, *pooled = inputs
        loader = ChunkLoader(query, key, value, bias, mask, pooled, geometry, scale)
        gradients = loader.windows(gradient)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        targets = loader.windows(grad_query)
        grad_bias = torch.zeros_like(loader.bias)
        sums = KeyGradients(geometry, gradients.shape, bias.dtype)
        query_buffer, logit_buffer = loader.query_buffer(), loader.weight_buffer()
        key_buffer = loader.key_buffer()
        for chunk in loader.chunks:
            loaded = loader.load(chunk)
            grads = loader.load_windows(query_buffer, chunk, gradients)
            both = key_buffer[:, : chunk.num_windows]
            grad_keys, grad_values = both.flatten(1, 2)
            for part, weights in loader.blocks(loaded):
                q, k, v = loaded.query[part], loaded.key[part], loaded.value[part]
                grad = grads[part]
                torch.bmm(weights.transpose(1, 2), grad, out=grad_values[part])
                logits = logit_buffer[: len(weights)]
                torch.bmm(grad, v.transpose(1, 2), out=logits)
                torch.ops.aten._softmax_backward_data.out(
                    logits, weights, -1, logits.dtype, grad_input=logits
                )
                grad_bias.add_(logits.view(-1, *grad_bias.shape).sum(0))
                grad_key = grad_keys[part]
                grad_key.baddbmm_(logits.transpose(1, 2), q, beta=0, alpha=scale)
                q.baddbmm_(logits, k, beta=0, alpha=scale)
            sums.add(both, chunk)
            target = chunk.of(targets)
            target.copy_(loaded.query.view(target.shape))
        (grad_key, *grad_pooled), (grad_value, *more) = sums.finish(key.dtype)
        grad_bias = grad_bias[..., : bias.shape[-1]]
        grads = (None, None, grad_query, grad_key, grad_value, grad_bias, None)
        return *grads, *grad_pooled, *more


def cpu_attention(inputs: AttentionInputs) -> Tensor:
    """Focal attention, a chunk of windows at a time.

    Where a transform follows the call, 'sdpa' computes it.
    """
    tensors = joined(inputs)
    if is_ordinary(*tensors):
        return _ChunkedAttention.apply(inputs.geometry, inputs.scale, *tensors)
    if not torch.compiler.is_compiling():
        log_once("focal attention runs on 'sdpa' where something follows its tensors")
    return attend(*tensors, geometry=inputs.geometry, scale=inputs.scale)


def _unsupported_reason(inputs: AttentionInputs) -> str:
    if inputs.query.device.type != "cpu":
        return f"its inputs are on {inputs.query.device}"
    if inputs.dropout_p:
        return "it does not drop attention weights"
    return ""


CPU = Backend(
    name="cpu",
    run=cpu_attention,
    unsupported_reason=_unsupported_reason,
    preferred_on="cpu",
)
