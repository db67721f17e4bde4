"""Cutting maps into windows and putting them together again."""

from __future__ import annotations

from torch import Tensor


def window(tokens: Tensor, size: int) -> Tensor:
    """(B, H, W, ...) to (B, windows, size², ...), row by row."""
    batch, height, width = tokens.shape[:3]
    rest = tokens.shape[3:]
    grid = tokens.reshape(batch, height // size, size, width // size, size, *rest)
    return grid.transpose(2, 3).reshape(batch, -1, size * size, *rest)


def unwindow(windows: Tensor, grid: tuple[int, int], size: int) -> Tensor:
    """(B, windows, size², ...) back to (B, H, W, ...)."""
    batch, rest = windows.shape[0], windows.shape[3:]
    rows, cols = grid
    tokens = windows.reshape(batch, rows, cols, size, size, *rest).transpose(2, 3)
    return tokens.reshape(batch, rows * size, cols * size, *rest)
