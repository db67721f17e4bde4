"""The backends of :func:`focal_mm.ops.focal_attention`, in order of preference."""

from focal_mm.ops.backends.base import AttentionInputs, Backend
from focal_mm.ops.backends.naive import NAIVE
from focal_mm.ops.backends.sdpa import SDPA

BACKENDS: tuple[Backend, ...] = (SDPA, NAIVE)

__all__ = ["BACKENDS", "AttentionInputs", "Backend"]
