"""The backends of :func:`focal_mm.ops.focal_attention`, in order of preference.

One that is preferred on a type of device comes first there.
"""

from focal_mm.ops.backends.base import AttentionInputs, Backend
from focal_mm.ops.backends.cpu import CPU
from focal_mm.ops.backends.naive import NAIVE
from focal_mm.ops.backends.sdpa import SDPA
from focal_mm.ops.backends.triton import TRITON

BACKENDS: tuple[Backend, ...] = (SDPA, CPU, TRITON, NAIVE)

__all__ = ["BACKENDS", "AttentionInputs", "Backend"]
