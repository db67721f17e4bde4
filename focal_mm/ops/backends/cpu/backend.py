"""The CPU path: exact attention of a few windows at a time, within the cache.

A chunk of windows copies its queries, keys and values from the maps straight into the
layout of two batched matrix products, with the softmax between them in place. Keys,
values and weights of the whole map are never in memory: the backward pass computes the
weights of each chunk again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from focal_mm.ops.backends.base import AttentionInputs, Backend
from focal_mm.ops.backends.cpu.gradients import KeyGradients
from focal_mm.ops.backends.cpu.loading import ChunkLoader
from focal_mm.ops.halo import key_bias, key_mask, squares


class _ChunkedAttention(torch.autograd.Function):
    """(B, H, W, h, d) from the arguments of :class:`ChunkLoader`, the pooled last."""

    @staticmethod
    def forward(ctx, query, key, value, bias, mask, geometry, scale, *pooled):
        ctx.save_for_backward(query, key, value, bias, mask, *pooled)
        ctx.sizes = geometry, scale
        loader = ChunkLoader(query, key, value, bias, mask, pooled, geometry)
        output = torch.empty_like(value, memory_format=torch.contiguous_format)
        size = geometry.window_size
        sources, targets = squares(query, size, size), squares(output, size, size)
        q_buffer, weight_buffer = loader.query_buffer(), loader.weight_buffer()
        k_buffer, v_buffer = loader.key_buffer(), loader.key_buffer()
        for chunk in loader.chunks:
            q = loader.load_windows(q_buffer, chunk, sources)
            k = loader.load_keys(k_buffer, chunk, 0)
            v = loader.load_keys(v_buffer, chunk, 1)
            weights = loader.weights(weight_buffer, chunk, q, k, scale)
            attended = torch.bmm(weights, v, out=q)
            target = chunk.of(targets)
            target.copy_(attended.view(target.shape))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, key, value, bias, mask, *pooled = ctx.saved_tensors
        geometry, scale = ctx.sizes
        loader = ChunkLoader(query, key, value, bias, mask, pooled, geometry)
        size = geometry.window_size
        sources, gradients = squares(query, size, size), squares(gradient, size, size)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        targets = squares(grad_query, size, size)
        grad_bias = torch.zeros_like(loader.bias)
        grid, shape = sources.shape[:3], query.shape[-2:]
        sums = KeyGradients(geometry, grid, bias, shape)
        q_buffer, g_buffer = loader.query_buffer(), loader.query_buffer()
        weight_buffer, logit_buffer = loader.weight_buffer(), loader.weight_buffer()
        k_buffer, v_buffer = loader.key_buffer(), loader.key_buffer()
        n, *rest = k_buffer.shape
        grad_buffer = k_buffer.new_empty(2, *k_buffer.shape)
        for chunk in loader.chunks:
            n = math.prod(chunk.shape)
            q = loader.load_windows(q_buffer, chunk, sources)
            g = loader.load_windows(g_buffer, chunk, gradients)
            k = loader.load_keys(k_buffer, chunk, 0)
            v = loader.load_keys(v_buffer, chunk, 1)
            weights = loader.weights(weight_buffer, chunk, q, k, scale)
            grads = grad_buffer[:, :n]
            grad_k, grad_v = grads.flatten(1, 2)
            torch.bmm(weights.transpose(1, 2), g, out=grad_v)
            logits = logit_buffer[:n].flatten(0, 1)
            torch.bmm(g, v.transpose(1, 2), out=logits)
            torch.ops.aten._softmax_backward_data.out(
                logits, weights, -1, weights.dtype, grad_input=logits
            )
            grad_bias.add_(logits.view(n, *grad_bias.shape).sum(0))
            target = chunk.of(targets)
            torch.baddbmm(g, logits, k, beta=0, alpha=scale, out=g)
            target.copy_(g.view(target.shape))
            torch.baddbmm(
                grad_k, logits.transpose(1, 2), q, beta=0, alpha=scale, out=grad_k
            )
            sums.add(grads, chunk)
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
