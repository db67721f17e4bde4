"""Windows and pooled maps, which all key selections have; caching by size."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from focal_mm.ops.common.transforms import is_watched


def cached_by_size(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Cache a tensor-valued function of hashable sizes.

    Where operators are followed, the plain function runs instead, so that a compiler's
    or a transform's own stand-ins for tensors do not end up in the cache. Tensors are
    never made in inference mode: autograd could not use them afterwards.
    """

    @functools.lru_cache(maxsize=64)
    def build(*sizes: object) -> Tensor:
        with torch.inference_mode(False):
            return function(*sizes)

    @functools.wraps(function)
    def wrapper(*sizes: object) -> Tensor:
        return function(*sizes) if is_watched() else build(*sizes)

    return wrapper


class WindowPyramid:
    """Windows of queries and the pooled maps of the coarse levels over them.

    Attributes:
        window_size: Side of a window of queries, in tokens.
        coarse_levels: Number of coarse levels (focal levels minus one).
        shift_size: The map is rolled by minus this before windows are cut.
    """

    window_size: int
    coarse_levels: int
    shift_size: int = 0

    @property
    def window_area(self) -> int:
        """Queries of a window."""
        return self.window_size**2

    def stride(self, level: int) -> int:
        """Sub-windows per window side at coarse level ``level`` (0-based)."""
        return 2**level

    def sub_window_size(self, level: int) -> int:
        """Side in tokens of what is pooled into one token at ``level``."""
        return self.window_size // self.stride(level)

    def num_pooled(self, size: int, level: int) -> int:
        """Pooled tokens along a side of ``size`` tokens at ``level``."""
        return -(-size // self.window_size) * self.stride(level)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Half-precision tensors as float32, others as they are."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
