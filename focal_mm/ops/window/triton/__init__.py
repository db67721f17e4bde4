"""Triton kernels for NVIDIA GPUs: the halo and the pooled region read in place."""

from focal_mm.ops.window.triton.backend import TRITON

__all__ = ["TRITON"]
