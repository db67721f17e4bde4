"""The backends of :func:`focal_mm.ops.focal_attention`, in order of preference."""

from .base import AttentionInputs, Backend
from .naive import NAIVE
from .sdpa import SDPA

BACKENDS: tuple[Backend, ...] = (SDPA, NAIVE)

__all__ = ["BACKENDS", "AttentionInputs", "Backend"]
