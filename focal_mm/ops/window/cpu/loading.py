"""Copying queries, keys and values of a chunk into the layout of batched products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.window.cpu.chunks import Chunk, plan_chunks, wrapped_parts
from focal_mm.ops.window.geometry import FocalGeometry
from focal_mm.ops.window.halo import pad_region, squares

CHUNK_BYTES = 3 << 20
"""Keys of a chunk, and its values: what is copied at once stays in the cache."""

BLOCK_BYTES = 2 << 20
"""Logits of a block, the windows of a chunk that are multiplied at once: they are
written and read several times, and stay in the cores' own caches."""

KEY_ALIGN = 16
"""Keys of a window are filled up to a multiple of this: one vector of float32."""


def pair(key: Tensor, value: Tensor) -> Tensor:
    """Keys and values as one tensor (2, ...).

    A view where they are parts of one projection's output, else a copy.
    """
    distance = value.storage_offset() - key.storage_offset()
    same = (
        key.untyped_storage().data_ptr() == value.untyped_storage().data_ptr()
        and key.stride() == value.stride()
        and distance > 0
    )
    if not same:
        return torch.stack((key, value))
    return key.as_strided((2, *key.shape), (distance, *key.stride()))


class Loaded(NamedTuple):
    """A chunk of ``n`` windows; the next one overwrites it.

    Attributes:
        query: (n * h, s², d).
        key: (n * h, keys filled up, d).
        value: As ``key``.
        mask: (n, 1, 1 or s², keys filled up) or None.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None


class ChunkLoader:
    """The tensors of one call, and one buffer for each kind of a chunk's tensors.

    The buffers serve all chunks in turn: memory that was written a moment ago is
    still in the cache, and new memory is slow at its first touch.

    Args:
        query, key, value, bias, mask, pooled, geometry, scale: As for
            :func:`focal_mm.ops.window.sdpa.attend`; the bias has the dtype of the
            computation.

    Attributes:
        chunks: The chunks of the call, the largest first.
        bias: (h, s², keys filled up).
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
        self._geometry, self._scale = geometry, scale
        self._num_keys = bias.shape[-1]
        fill = -self._num_keys % KEY_ALIGN
        self.bias = F.pad(bias, (0, fill), value=-torch.inf)
        size, levels = geometry.window_size, geometry.coarse_levels
        batch, rows, cols = (query.shape[0], *(n // size for n in query.shape[1:3]))
        self._mask = None
        if mask is not None:
            # In float32 exp(-100) is a denormal number, which processors are slow with;
            # exp(-200) is zero, and no sum of weights shows the difference.
            mask = F.pad(mask.to(bias.dtype) * 2, (0, fill))
            self._mask = mask.unflatten(0, (rows, cols))[:, :, None]
        self._queries = self.windows(query)
        # Heads first, as in the strips that they are copied to.
        self._fine = pair(key, value).permute(0, 1, 4, 2, 3, 5)
        self._pooled = []
        for level in range(levels):
            tokens = pair(pooled[level], pooled[levels + level]).flatten(0, 1)
            region, stride = geometry.region_size(level), geometry.stride(level)
            views = squares(pad_region(tokens, geometry, level), region, stride)
            self._pooled.append(views.unflatten(0, (2, batch)))
        heads, area, keys = self.bias.shape
        row_bytes = heads * keys * bias.element_size()
        most = CHUNK_BYTES // (row_bytes * query.shape[-1])
        self.chunks = plan_chunks(batch, rows, cols, most)
        most = max(1, BLOCK_BYTES // (row_bytes * area))
        self._block = min(most, self.chunks[0].num_windows)
        self._strip = bias.new_empty(math.prod(self._strip_shape(self.chunks[0])))
        self._buffers = self.query_buffer(), self.key_buffer()
        self._weights = self.weight_buffer()

    def windows(self, tokens: Tensor) -> Tensor:
        """Windows of a map (B, H, W, h, d): a view (B, rows, cols, h, s, s, d)."""
        size = self._geometry.window_size
        return squares(tokens, size, size)

    def query_buffer(self) -> Tensor:
        """For what a chunk has for each query, (windows, h, s², d)."""
        return self._buffer(1, self._geometry.window_area)[0]

    def key_buffer(self) -> Tensor:
        """For keys and values of a chunk, (2, windows, h, keys filled up, d)."""
        buffer = self._buffer(2, self.bias.shape[-1])
        # Never written again: numbers that a weight of zero may be multiplied with.
        buffer[..., self._num_keys :, :] = 0
        return buffer

    def weight_buffer(self) -> Tensor:
        """For what a block has for each pair, (windows * h, s², keys filled up)."""
        heads, *pair = self.bias.shape
        return self.bias.new_empty(self._block * heads, *pair)

    def _buffer(self, count: int, tokens: int) -> Tensor:
        heads, channels = self._queries.shape[3], self._queries.shape[-1]
        windows = self.chunks[0].num_windows
        return self.bias.new_empty(count, windows, heads, tokens, channels)

    def load(self, chunk: Chunk) -> Loaded:
        """Copy a chunk."""
        query_buffer, key_buffer = self._buffers
        mask = self._mask
        if mask is not None:
            mask = mask[chunk.rows, chunk.cols].expand(*chunk.shape, -1, -1, -1)
            mask = mask.flatten(0, 2)
        return Loaded(
            self.load_windows(query_buffer, chunk, self._queries),
            *self._load_keys(key_buffer, chunk),
            mask,
        )

    def blocks(self, loaded: Loaded) -> Iterator[tuple[slice, Tensor]]:
        """Weights of a chunk, block by block; the next one overwrites them.

        Yields:
            Which of the ``n * h``, and their softmax over the keys, (of them, s², keys
            filled up).
        """
        heads = len(self.bias)
        windows = len(loaded.query) // heads
        for start in range(0, windows, self._block):
            stop = min(start + self._block, windows)
            part = slice(start * heads, stop * heads)
            weights = self._weights[: part.stop - part.start]
            logits = weights.unflatten(0, (-1, heads))
            if loaded.mask is None:
                logits.copy_(self.bias)
            else:
                mask = loaded.mask[start:stop]
                torch.add(self.bias.expand_as(logits), mask, out=logits)
            query, key = loaded.query[part], loaded.key[part]
            weights.baddbmm_(query, key.transpose(1, 2), alpha=self._scale)
            yield part, torch.softmax(weights, -1, out=weights)

    def load_windows(self, buffer: Tensor, chunk: Chunk, windows: Tensor) -> Tensor:
        """Copy a chunk of (B, rows, cols, h, s, s, d) to (n * h, s², d)."""
        source = chunk.of(windows)
        loaded = buffer[: chunk.num_windows]
        loaded.view(source.shape).copy_(source)
        return loaded.flatten(0, 1)

    def _load_keys(self, buffer: Tensor, chunk: Chunk) -> Tensor:
        """Copy a chunk's keys and values to (2, n * h, keys filled up, d)."""
        geometry = self._geometry
        strip = self._load_strip(chunk).flatten(0, 1).permute(0, 2, 3, 1, 4)
        fine = squares(strip, geometry.halo_size, geometry.window_size)
        views = [fine.unflatten(0, (2, -1))]
        parts = slice(None), chunk.images, chunk.rows, chunk.cols
        views += [pooled[parts] for pooled in self._pooled]
        loaded = buffer[:, : chunk.num_windows]
        targets, start = loaded.unflatten(1, chunk.shape), 0
        for view in views:
            sides = view.shape[5:7]
            target = targets.narrow(5, start, math.prod(sides))
            target.unflatten(5, sides).copy_(view)
            start += math.prod(sides)
        return loaded.flatten(1, 2)

    def _load_strip(self, chunk: Chunk) -> Tensor:
        """Keys and values that the halos of a chunk cover together, contiguous.

        Returns:
            (2, images, h, rows * s + 2e, cols * s + 2e, d).
        """
        size, margin = self._geometry.window_size, self._geometry.expand_size
        shape = self._strip_shape(chunk)
        strip = self._strip[: math.prod(shape)].view(shape)
        rows, cols = (
            wrapped_parts(part.start * size, part.stop * size, margin, side)
            for part, side in zip(
                (chunk.rows, chunk.cols), self._fine.shape[3:5], strict=True
            )
        )
        for (to_rows, at_rows), (to_cols, at_cols) in itertools.product(rows, cols):
            source = self._fine[:, chunk.images, :, at_rows, at_cols]
            strip[..., to_rows, to_cols, :].copy_(source)
        return strip

    def _strip_shape(self, chunk: Chunk) -> tuple[int, ...]:
        size, margin = self._geometry.window_size, self._geometry.expand_size
        images, *grid = chunk.shape
        heads, channels = self._queries.shape[3], self._queries.shape[-1]
        return 2, images, heads, *(n * size + 2 * margin for n in grid), channels
