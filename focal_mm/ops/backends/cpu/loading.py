"""Copying queries, keys and values of a chunk into the layout of batched products."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.ops.backends.cpu.chunks import Chunk, plan_chunks, wrapped_parts
from focal_mm.ops.geometry import FocalGeometry
from focal_mm.ops.halo import pad_region, squares

CHUNK_BYTES = 6 << 20
"""Logits of a chunk: they, its keys and its values stay in the cache."""

KEY_ALIGN = 16
"""Keys of a window are filled up to a multiple of this: one vector of float32."""


def heads_first(tokens: Tensor) -> Tensor:
    """(B, H, W, h, d) as (B, h, H, W, d), a view."""
    return tokens.permute(0, 3, 1, 2, 4)


def window_views(tokens: Tensor, size: int, stride: int) -> Tensor:
    """Squares of a map (B, h, H, W, d): a view (B, rows, cols, h, size, size, d)."""
    return squares(tokens.permute(0, 2, 3, 1, 4), size, stride)


class ChunkLoader:
    """The tensors of one call, and one buffer for each kind of a chunk's tensors.

    The buffers serve all chunks in turn: memory that was written a moment ago is
    still in the cache, and new memory is slow at its first touch.

    Args:
        query: (B, H, W, h, d).
        key: As ``query``.
        value: As ``query``.
        bias: (h, s², keys); its dtype is that of the computation.
        mask: (windows, 1 or s², keys) or None.
        pooled: Keys of each coarse level, then values, (B, Hk, Wk, h, d).
        geometry: The sizes.

    Attributes:
        chunks: The chunks of the call, the largest first.
        num_keys: Keys of a window, without those that fill up.
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
    ) -> None:
        self.geometry = geometry
        size, levels = geometry.window_size, geometry.coarse_levels
        self._fine = (heads_first(key), heads_first(value))
        self._pooled = [
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
        self.num_keys = bias.shape[-1]
        fill = -self.num_keys % KEY_ALIGN
        self.bias = F.pad(bias, (0, fill), value=-torch.inf)
        rows, cols = (side // size for side in query.shape[1:3])
        self._mask = None
        if mask is not None:
            mask = F.pad(mask.to(bias.dtype), (0, fill))
            self._mask = mask.unflatten(0, (rows, cols))[:, :, None]
        most = CHUNK_BYTES // (self.bias.numel() * bias.element_size())
        self.chunks = plan_chunks(query.shape[0], rows, cols, most)
        self._largest = math.prod(self.chunks[0].shape)
        self._heads, self._channels = query.shape[-2:]
        images, *sides = self.chunks[0].shape
        strip = [side * size + 2 * geometry.expand_size for side in sides]
        self._strip = bias.new_empty(
            images * self._heads * math.prod(strip) * self._channels
        )

    def query_buffer(self) -> Tensor:
        """For :meth:`load_windows`."""
        return self._buffer(self.geometry.window_area)

    def key_buffer(self) -> Tensor:
        """For :meth:`load_keys`."""
        buffer = self._buffer(self.bias.shape[-1])
        # Never written again: numbers that a weight of zero may be multiplied with.
        buffer[:, :, self.num_keys :] = 0
        return buffer

    def weight_buffer(self) -> Tensor:
        """For :meth:`weights`."""
        return self.bias.new_empty(self._largest, *self.bias.shape)

    def _buffer(self, tokens: int) -> Tensor:
        return self.bias.new_empty(self._largest, self._heads, tokens, self._channels)

    def load_windows(self, buffer: Tensor, chunk: Chunk, windows: Tensor) -> Tensor:
        """Copy a chunk of (B, rows, cols, h, s, s, d) to (n * h, s², d)."""
        source = chunk.of(windows)
        loaded = buffer[: math.prod(chunk.shape)]
        loaded.view(source.shape).copy_(source)
        return loaded.flatten(0, 1)

    def load_keys(self, buffer: Tensor, chunk: Chunk, which: int) -> Tensor:
        """Copy a chunk's keys (0) or values (1) to (n * h, keys filled up, d)."""
        geometry = self.geometry
        strip = self._load_strip(chunk, self._fine[which])
        views = [window_views(strip, geometry.halo_size, geometry.window_size)]
        views += map(chunk.of, self._pooled[which])
        loaded = buffer[: math.prod(chunk.shape)]
        targets, start = loaded.unflatten(0, chunk.shape), 0
        for view in views:
            sides = view.shape[4:6]
            target = targets.narrow(4, start, math.prod(sides))
            target.unflatten(4, sides).copy_(view)
            start += math.prod(sides)
        return loaded.flatten(0, 1)

    def _load_strip(self, chunk: Chunk, tokens: Tensor) -> Tensor:
        """What all halos of a chunk cover together, contiguous.

        Args:
            chunk: The chunk.
            tokens: (B, h, H, W, d).

        Returns:
            (images, h, rows * s + 2e, cols * s + 2e, d).
        """
        size, margin = self.geometry.window_size, self.geometry.expand_size
        images, *grid = chunk.shape
        sides = [side * size + 2 * margin for side in grid]
        shape = (images, self._heads, *sides, self._channels)
        strip = self._strip[: math.prod(shape)].view(shape)
        rows, cols = (
            wrapped_parts(part.start * size, part.stop * size, margin, side)
            for part, side in zip(
                (chunk.rows, chunk.cols), tokens.shape[2:4], strict=True
            )
        )
        for (to_rows, at_rows), (to_cols, at_cols) in itertools.product(rows, cols):
            source = tokens[chunk.images, :, at_rows, at_cols]
            strip[:, :, to_rows, to_cols].copy_(source)
        return strip

    def weights(
        self, buffer: Tensor, chunk: Chunk, query: Tensor, key: Tensor, scale: float
    ) -> Tensor:
        """Softmax of a chunk's logits over its keys: (n * h, s², keys filled up)."""
        weights = buffer[: math.prod(chunk.shape)]
        if self._mask is None:
            weights.copy_(self.bias)
        else:
            windows = weights.unflatten(0, chunk.shape)
            mask = self._mask[chunk.rows, chunk.cols]
            torch.add(self.bias.expand_as(windows), mask, out=windows)
        weights = weights.flatten(0, 1)
        weights.baddbmm_(query, key.transpose(1, 2), alpha=scale)
        return torch.softmax(weights, -1, out=weights)
