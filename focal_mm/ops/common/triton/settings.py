"""Tile sizes and launch options."""

from __future__ import annotations

import functools
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import triton.language as tl
from torch import Tensor
from triton.runtime.jit import JITFunction

from focal_mm.ops.common.pyramid import WindowPyramid


def interpreted() -> bool:
    """Whether kernels run in Triton's interpreter (TRITON_INTERPRET=1 at import)."""
    return not isinstance(tl.zeros, JITFunction)


def block_of(count: int) -> int:
    """Channels (or tokens) of a tile: a power of two that the matrix units take."""
    return max(16, 1 << (count - 1).bit_length())


def allows_tf32() -> bool:
    """Whether torch's own float32 products may be rounded to tf32."""
    matmul = torch.backends.cuda.matmul
    if hasattr(matmul, "fp32_precision"):  # Reading the older switch may raise then.
        return matmul.fp32_precision == "tf32"
    return matmul.allow_tf32


def device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Kernels start on the current GPU: make it the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


@functools.lru_cache
def _processors(device: torch.device) -> int:
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count


@dataclass(frozen=True)
class Launch:
    """How one kernel is started.

    Attributes:
        block_m: Queries of a tile.
        block_n: Keys of a tile, where a tile is a run of a window's keys.
        tile_rows, tile_cols: Sides of a tile that is a rectangle of the map.
        warps: Warps of a program.
        stages: Depth of the software pipeline.
    """

    block_m: int
    block_n: int = 0
    tile_rows: int = 0
    tile_cols: int = 0
    warps: int = 4
    stages: int = 2

    def shares(self, programs: int, windows: int, device: torch.device) -> int:
        """Into how many shares to cut a sum over windows.

        Enough to give every multiprocessor some eight programs, few enough that the
        partial sums stay small.
        """
        return max(1, min(windows, 8 * _processors(device) // programs))


@dataclass(frozen=True)
class Settings:
    """How each kernel is started for one set of sizes."""

    forward: Launch
    backward_query: Launch
    backward_fine: Launch
    backward_pooled: Launch
    backward_bias: Launch


@functools.lru_cache(maxsize=64)
def choose_settings(
    geometry: WindowPyramid, channels: int, dtype: torch.dtype
) -> Settings:
    """Tile sizes by the window, the head's channels and the dtype.

    Half precision: 64 queries by 64 keys are one warpgroup's product (wgmma), a
    window of 7 fills 49 of 64 rows, its halo 169 of 192 columns. Wider heads and the
    sums that stay in registers (gradients of keys, of the bias) take eight warps, so
    that nothing is spilled. Pooled tokens are few and seen by many windows: small
    tiles of them give enough programs. Float32 products without tf32 run on the
    ordinary units, which hold operands in registers: tiles are smaller. The
    interpreter's time goes by operations, so that it gets the larger ones.
    """
    area = 1 << (geometry.window_area - 1).bit_length()
    wide = block_of(channels) > 32
    warps = 8 if wide else 4
    if dtype == torch.float32 and not interpreted():
        small = min(32, max(16, area))
        return Settings(
            forward=Launch(small, block_n=32, warps=warps),
            backward_query=Launch(small, block_n=32, warps=warps),
            backward_fine=Launch(small, tile_rows=4, tile_cols=4),
            backward_pooled=Launch(small, tile_rows=4, tile_cols=4),
            backward_bias=Launch(small, block_n=32, warps=warps),
        )
    block_m = min(64, max(16, area))
    return Settings(
        forward=Launch(block_m, block_n=64),
        backward_query=Launch(block_m, block_n=64),
        backward_fine=Launch(block_m, tile_rows=8, tile_cols=8, warps=warps),
        backward_pooled=Launch(block_m, tile_rows=4, tile_cols=4),
        backward_bias=Launch(block_m, block_n=64, warps=8),
    )
