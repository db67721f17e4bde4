"""Cutting a call into chunks of windows that fit a processor's cache."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Chunk:
    """Windows that are computed together: a rectangle of windows of some images."""

    images: slice
    rows: slice
    cols: slice

    @property
    def shape(self) -> tuple[int, int, int]:
        """Images, rows and columns of windows."""
        images, rows, cols = (
            part.stop - part.start for part in (self.images, self.rows, self.cols)
        )
        return images, rows, cols

    @property
    def num_windows(self) -> int:
        """Windows of all its images."""
        return math.prod(self.shape)

    def of(self, windows: Tensor) -> Tensor:
        """Its part of (B, rows, cols, ...), a view."""
        return windows[self.images, self.rows, self.cols]


def _parts(total: int, most: int) -> list[slice]:
    """Slices of at most so many, alike in size; none is larger than the first."""
    count = -(-total // most)
    size = -(-total // count)
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


def plan_chunks(batch: int, rows: int, cols: int, windows: int) -> list[Chunk]:
    """Chunks of at most so many windows (at least one), the largest first.

    They are whole images; whole rows of windows of one image where an image has more
    windows than that; parts of a row where a row has.
    """
    images = height = 1
    width = cols
    if windows >= rows * cols:
        images, height = windows // (rows * cols), rows
    elif windows >= cols:
        height = windows // cols
    else:
        width = max(1, windows)
    sides = _parts(batch, images), _parts(rows, height), _parts(cols, width)
    return [Chunk(*parts) for parts in itertools.product(*sides)]


def wrapped_parts(
    start: int, stop: int, margin: int, size: int
) -> list[tuple[slice, slice]]:
    """An interval of a side with a margin around it, from the far end at the borders.

    Args:
        start: Start of the interval.
        stop: Its end.
        margin: Tokens on each of its sides, at most ``size``.
        size: Tokens of the side.

    Returns:
        Places in the interval with its margin, and the tokens of the side there.
    """
    before, after = max(margin - start, 0), max(stop + margin - size, 0)
    length = stop - start + 2 * margin
    inside = slice(max(start - margin, 0), min(stop + margin, size))
    parts = [
        (slice(0, before), slice(size - before, size)),
        (slice(before, length - after), inside),
        (slice(length - after, length), slice(0, after)),
    ]
    return [part for part in parts if part[0].start < part[0].stop]
