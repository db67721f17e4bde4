"""The CPU path: exact attention of a few windows at a time, within the cache.

A chunk of windows copies its queries, keys and values from the maps straight into the
layout of two batched matrix products, with the softmax between them in place. Keys,
values and weights of the whole map are never in memory: the backward pass computes the
weights of each chunk again.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.window.cpu.gradients import KeyGradients
from focal_mm.ops.window.cpu.loading import ChunkLoader
from focal_mm.ops.window.halo import key_bias, key_mask
from focal_mm.ops.window.inputs import AttentionInputs


class _ChunkedAttention(torch.autograd.Function):
    """(B, H, W, h, d) from the arguments of :class:`ChunkLoader`, the pooled last."""

    @staticmethod
    def forward(ctx, query, key, value, bias, mask, geometry, scale, *pooled):
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
    @once_differentiable
    def backward(ctx, gradient):
        query, key, value, bias, mask, *pooled = ctx.saved_tensors
        geometry, scale = ctx.sizes
        loader = ChunkLoader(query, key, value, bias, mask, pooled, geometry, scale)
        gradients = loader.windows(gradient)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        targets = loader.windows(grad_query)
        grad_bias = torch.zeros_like(loader.bias)
        sums = KeyGradients(geometry, gradients.shape[:3], bias, query.shape[-2:])
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
        grads = (grad_query, grad_key, grad_value, grad_bias, None, None, None)
        return *grads, *grad_pooled, *more


def cpu_attention(inputs: AttentionInputs) -> Tensor:
    """Focal attention, a chunk of windows at a time."""
    return _ChunkedAttention.apply(
        inputs.query,
        inputs.key,
        inputs.value,
        key_bias(inputs),
        key_mask(inputs),
        inputs.geometry,
        inputs.scale,
        *inputs.pooled_keys,
        *inputs.pooled_values,
    )


def _why_unsupported(inputs: AttentionInputs) -> str:
    if inputs.query.device.type != "cpu":
        return f"its inputs are on {inputs.query.device}"
    if inputs.dropout_p:
        return "it does not drop attention weights"
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return "a compiler does better with the whole map at once"
    return ""


CPU = Backend(
    name="cpu",
    run=cpu_attention,
    why_unavailable=lambda: "",
    why_unsupported=_why_unsupported,
    preferred_on="cpu",
)
