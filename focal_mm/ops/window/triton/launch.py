"""What the kernels read besides queries, keys and values: packed biases."""

from __future__ import annotations

import torch
from torch import Tensor

from focal_mm.ops.common.triton.launch import Call
from focal_mm.ops.common.triton.settings import Launch
from focal_mm.ops.common.triton.tiles import LOG2_E
from focal_mm.ops.window.geometry import FocalGeometry
from focal_mm.ops.window.triton.keys import WINDOW_KEYS

_ALIGN = 64
"""Packed biases have a multiple of this many columns, so that tiles are whole."""


def _pack(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """(h, s², keys) to (h, s², columns), in units of log 2.

    Columns that fill the keys up hold minus infinity: the kernels then need no mask for
    them.
    """
    *rows, keys = bias.shape
    columns = keys + -keys % _ALIGN
    packed = torch.full((*rows, columns), -torch.inf, dtype=dtype, device=bias.device)
    torch.mul(bias, LOG2_E, out=packed[..., :keys])
    return packed


def _transpose(packed: Tensor) -> Tensor:
    """(h, s², columns) to (h, columns, s² filled up to whole tiles)."""
    fill = -packed.shape[1] % _ALIGN
    filled = torch.nn.functional.pad(packed, (0, 0, 0, fill), value=-torch.inf)
    return filled.transpose(1, 2).contiguous()


class WindowCall(Call):
    """Focal attention; biases are (h, s², keys), of the halo, then of each level."""

    functions = WINDOW_KEYS
    make_geometry = FocalGeometry

    @property
    def specs(self) -> tuple[tuple[int, ...], ...]:
        """Where the group's square starts before the window, its side, the shift."""
        geometry = self.geometry
        pad = (geometry.focal_window - 1) // 2
        levels = range(geometry.coarse_levels)
        coarse = ((pad, geometry.region_size(level), 0) for level in levels)
        fine = (geometry.expand_size, geometry.halo_size, geometry.shift_size)
        return (fine, *coarse)

    @property
    def counts(self) -> tuple[int, ...]:
        """Tokens of the squares."""
        return tuple(size**2 for _, size, _ in self.specs)

    def packed(self) -> tuple[Tensor, ...]:
        """Biases with whole tiles, in units of log 2.

        With bfloat16 maps they are float16: as many bytes, and eight times as fine.
        """
        dtype = self.query.dtype
        if dtype == torch.bfloat16:
            dtype = torch.float16
        return tuple(_pack(bias, dtype) for bias in self.biases)

    def for_keys(
        self, number: int, bias: Tensor, launch: Launch
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The bias transposed: the kernel's tiles are (keys, queries)."""
        return _transpose(bias), ()

    def for_bias(self, number: int, block: int) -> tuple[int, tuple[Tensor, ...]]:
        """Tiles of keys."""
        return -(-self.counts[number] // block), ()

    def unpack(self, number: int, block: int, grad: Tensor) -> Tensor:
        """Without the columns that fill tiles up."""
        return grad[..., : self.counts[number]].contiguous()
