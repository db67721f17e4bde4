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

from focal_mm.ops.backends.base import AttentionInputs, Backend
from focal_mm.ops.backends.cpu.gradients import KeyGradients
from focal_mm.ops.backends.cpu.loading import ChunkLoader
from focal_mm.ops.halo import key_bias, key_mask


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
            attended = torch.bmm(loaded.weights, loaded.value, out=loaded.query)
            target = chunk.of(targets)
            target.copy_(attended.view(target.shape))
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
        buffers = (
            loader.query_buffer(),
            loader.weight_buffer(),
            torch.stack((loader.key_buffer(), loader.key_buffer())),
        )
        for chunk in loader.chunks:
            n = chunk.num_windows
            q, k, v, weights = loader.load(chunk)
            g = loader.load_windows(buffers[0], chunk, gradients)
            logits = buffers[1][:n].flatten(0, 1)
            both = buffers[2][:, :n]
            grad_k, grad_v = both.flatten(1, 2)
            torch.bmm(weights.transpose(1, 2), g, out=grad_v)
            torch.bmm(g, v.transpose(1, 2), out=logits)
            torch.ops.aten._softmax_backward_data.out(
                logits, weights, -1, logits.dtype, grad_input=logits
            )
            grad_bias.add_(logits.view(n, *grad_bias.shape).sum(0))
            grad_k.baddbmm_(logits.transpose(1, 2), q, beta=0, alpha=scale)
            sums.add(both, chunk)
            q.baddbmm_(logits, k, beta=0, alpha=scale)
            target = chunk.of(targets)
            target.copy_(q.view(target.shape))
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
