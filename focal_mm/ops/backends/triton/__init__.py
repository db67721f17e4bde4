"""Triton kernels for NVIDIA GPUs: the halo and the pooled region read in place."""

from focal_mm.ops.backends.triton.backend import TRITON

__all__ = ["TRITON"]
