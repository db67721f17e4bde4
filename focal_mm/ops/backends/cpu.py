"""The CPU path: exact attention of a few windows at a time, within the cache.

A chunk of windows copies its queries, keys and values from the maps once, straight into
the layout of two batched matrix products, with the softmax between them in place. Keys,
values and weights of the whole map are never in memory: the backward pass computes the
weights of each chunk again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from focal_mm.ops.backends.base import AttentionInputs, Backend
from focal_mm.ops.geometry import FocalGeometry
from focal_mm.ops.halo import key_bias, key_mask, pad_region, squares, wrap

CHUNK_BYTES = 1 << 22
"""Logits of a chunk: they, its keys and its values stay in a core's cache."""


@dataclass(frozen=True)
class _Chunk:
    """Windows that are computed together: rows of windows of some images."""

    images: slice
    rows: slice

    def of(self, views: Tensor) -> Tensor:
        """Its part of (B, rows, ...)."""
        return views[self.images, self.rows]


def _chunks(batch: int, rows: int, cols: int, windows: int) -> Iterator[_Chunk]:
    """Parts of about so many windows each: whole images, or rows of one image."""
    images = max(1, min(batch, windows // (rows * cols)))
    height = rows if images > 1 else max(1, min(rows, windows // cols))
    for image in range(0, batch, images):
        for row in range(0, rows, height):
            yield _Chunk(
                slice(image, min(image + images, batch)),
                slice(row, min(row + height, rows)),
            )


class _Maps:
    """What of a call does not depend on the chunk.

    Args:
        query: (B, H, W, h, d).
        key: As ``query``.
        value: As ``query``.
        bias: (h, s², keys); its dtype is that of the computation.
        mask: (windows, 1 or s², keys) or None.
        pooled: Keys of each coarse level, then values, (B, Hk, Wk, h, d).
        geometry: The sizes.
        scale: Factor of the queries.
    """

    def __init__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Tensor,
        mask: Tensor | None,
        pooled: Sequence[Tensor],
        geometry: FocalGeometry,
        scale: float,
    ) -> None:
        self.geometry, self.scale = geometry, scale
        self.bias, self.mask = bias, mask
        size = geometry.window_size
        self.windows = squares(query, size, size)
        batch, rows, cols, self.heads = self.windows.shape[:4]
        self.cols = cols
        levels = geometry.coarse_levels
        self.fine = (key, value)
        self.pooled = [
            [
                squares(
                    pad_region(tokens, geometry, level),
                    geometry.region_size(level),
                    geometry.stride(level),
                )
                for level, tokens in enumerate(maps)
            ]
            for maps in (pooled[:levels], pooled[levels:])
        ]
        largest = CHUNK_BYTES // (bias.numel() * bias.element_size())
        self.chunks = list(_chunks(batch, rows, cols, largest))

    def load(self, views: Sequence[Tensor]) -> Tensor:
        """Parts (images, rows, cols, h, side, side, d) as one (n, h, tokens, d)."""
        tokens = [part.shape[4] * part.shape[5] for part in views]
        head, channels = views[0].shape[:4], views[0].shape[-1]
        buffer = self.bias.new_empty(*head, sum(tokens), channels)
        for part, target in zip(views, buffer.split(tokens, dim=4), strict=True):
            target.unflatten(4, part.shape[4:6]).copy_(part)
        return buffer.flatten(0, 2)

    def keys(self, chunk: _Chunk, which: int) -> Tensor:
        """Keys (0) or values (1) of a chunk: (n, h, keys, d)."""
        geometry = self.geometry
        size, expand = geometry.window_size, geometry.expand_size
        tokens = self.fine[which][chunk.images]
        strip = wrap(tokens, expand, chunk.rows.start * size, chunk.rows.stop * size)
        fine = squares(strip, geometry.halo_size, size)
        return self.load([fine, *map(chunk.of, self.pooled[which])])

    def weights(self, chunk: _Chunk, query: Tensor, key: Tensor) -> Tensor:
        """Softmax over the keys: (n * h, s², keys)."""
        weights = self.bias.new_empty(len(query), *self.bias.shape)
        if self.mask is None:
            weights.copy_(self.bias)
        else:
            rows = slice(chunk.rows.start * self.cols, chunk.rows.stop * self.cols)
            mask = self.mask[rows, None]
            images = weights.unflatten(0, (-1, len(mask)))
            torch.add(self.bias.expand_as(images), mask, out=images)
        weights = weights.flatten(0, 1)
        weights.baddbmm_(
            query.flatten(0, 1), key.flatten(0, 1).transpose(1, 2), alpha=self.scale
        )
        return torch.softmax(weights, -1, out=weights)


def _add_overlapping(total: Tensor, parts: Tensor, dim: int, step: int) -> None:
    """Add intervals of a length, one every ``step``, to what they cover.

    Args:
        total: Its dimension ``dim`` is what is covered.
        parts: There it has two dimensions instead: intervals, and their length.
        dim: The dimension.
        step: From one interval's start to the next one's.
    """
    count, length = parts.shape[dim : dim + 2]
    # Overlapping intervals cannot be added at once, their parts of a step's length can.
    for start in range(0, length, step):
        size = min(step, length - start)
        covered = total.narrow(dim, start, (count - 1) * step + size)
        covered = covered.unfold(dim, size, step).movedim(-1, dim + 1)
        covered.add_(parts.narrow(dim + 1, start, size))


class _KeyGradients:
    """Gradients of keys or values, summed over the windows that see a token.

    Args:
        geometry: The sizes.
        grid: Batch, rows and columns of windows.
        like: Has the dtype.
        shape: Heads and channels.
    """

    def __init__(
        self,
        geometry: FocalGeometry,
        grid: tuple[int, int, int],
        like: Tensor,
        shape: tuple[int, int],
    ) -> None:
        self.expand = geometry.expand_size
        levels = range(geometry.coarse_levels)
        self.sides = [geometry.halo_size, *map(geometry.region_size, levels)]
        self.steps = [geometry.window_size, *map(geometry.stride, levels)]
        batch, *windows = grid
        self.cols = windows[1]
        self.maps = [
            like.new_zeros(batch, *((n - 1) * step + side for n in windows), *shape)
            for side, step in zip(self.sides, self.steps, strict=True)
        ]

    def add(self, gradients: Tensor, chunk: _Chunk) -> None:
        """Add those of a chunk, (n, h, keys, d)."""
        counts = [side * side for side in self.sides]
        parts = gradients.split(counts, dim=2)
        for part, total, side, step in zip(
            parts, self.maps, self.sides, self.steps, strict=True
        ):
            images = total[chunk.images]
            first = chunk.rows.start * step
            rows, cols = chunk.rows.stop - chunk.rows.start, self.cols
            strip = images[:, first : first + (rows - 1) * step + side]
            grid = (len(images), rows, cols)
            part = part.unflatten(2, (side, side)).unflatten(0, grid)
            # Rows first, (images, rows, cols, h, row, col, d) to bands that keep the
            # columns of each window apart; then columns.
            part = part.permute(0, 1, 4, 2, 3, 5, 6)
            bands = part.new_zeros(len(images), strip.shape[1], *part.shape[3:])
            _add_overlapping(bands, part, 1, step)
            _add_overlapping(strip, bands.permute(0, 1, 2, 4, 3, 5), 2, step)

    def finish(self, dtype: torch.dtype) -> list[Tensor]:
        """The sums as (B, H, W, h, d) of each level: what lay around a map is folded
        back (fine keys) or dropped (pooled ones, whose surroundings are zeros).
        """
        fine, *coarse = self.maps
        margin = self.expand
        if margin:
            for dim in (1, 2):
                size = fine.shape[dim]
                first = fine.narrow(dim, margin, margin)
                first.add_(fine.narrow(dim, size - margin, margin))
                last = fine.narrow(dim, size - 2 * margin, margin)
                last.add_(fine.narrow(dim, 0, margin))
            fine = fine[:, margin:-margin, margin:-margin]
        gradients = [fine]
        for total, side, step in zip(
            coarse, self.sides[1:], self.steps[1:], strict=True
        ):
            pad = (side - step) // 2
            rows, cols = (slice(pad, size - pad) for size in total.shape[1:3])
            gradients.append(total[:, rows, cols])
        return [gradient.to(dtype) for gradient in gradients]


class _ChunkedAttention(torch.autograd.Function):
    """(B, H, W, h, d) from the arguments of :class:`_Maps`, the pooled ones last."""

    @staticmethod
    def forward(ctx, query, key, value, bias, mask, geometry, scale, *pooled):
        ctx.save_for_backward(query, key, value, bias, mask, *pooled)
        ctx.sizes = geometry, scale
        maps = _Maps(query, key, value, bias, mask, pooled, geometry, scale)
        output = torch.empty_like(value, memory_format=torch.contiguous_format)
        size = geometry.window_size
        targets = squares(output, size, size)
        for chunk in maps.chunks:
            queries = maps.load([chunk.of(maps.windows)])
            weights = maps.weights(chunk, queries, maps.keys(chunk, 0))
            attended = torch.bmm(weights, maps.keys(chunk, 1).flatten(0, 1))
            target = chunk.of(targets)
            target.copy_(attended.view(target.shape))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        query, key, value, bias, mask, *pooled = ctx.saved_tensors
        geometry, scale = ctx.sizes
        maps = _Maps(query, key, value, bias, mask, pooled, geometry, scale)
        size = geometry.window_size
        gradients = squares(gradient, size, size)
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        targets = squares(grad_query, size, size)
        grad_bias = torch.zeros_like(bias)
        grid, shape = maps.windows.shape[:3], query.shape[-2:]
        sums = [_KeyGradients(geometry, grid, bias, shape) for _ in range(2)]
        for chunk in maps.chunks:
            queries = maps.load([chunk.of(maps.windows)])
            keys, values = maps.keys(chunk, 0), maps.keys(chunk, 1)
            grads = maps.load([chunk.of(gradients)])
            weights = maps.weights(chunk, queries, keys)
            q, k, v, g = (t.flatten(0, 1) for t in (queries, keys, values, grads))
            sums[1].add(torch.bmm(weights.transpose(1, 2), g).view(values.shape), chunk)
            logits = torch.bmm(g, v.transpose(1, 2))
            logits = torch._softmax_backward_data(logits, weights, -1, weights.dtype)
            grad_bias.add_(logits.view(-1, *bias.shape).sum(0))
            target = chunk.of(targets)
            target.copy_(torch.bmm(logits, k).mul_(scale).view(target.shape))
            grad_keys = torch.bmm(logits.transpose(1, 2), q).mul_(scale)
            sums[0].add(grad_keys.view(keys.shape), chunk)
        grad_key, *grad_pooled = sums[0].finish(key.dtype)
        grad_value, *more = sums[1].finish(value.dtype)
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
