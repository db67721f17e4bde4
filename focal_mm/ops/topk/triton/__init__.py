"""Triton kernels of top-K attention: listed tokens and their biases read in place."""

from focal_mm.ops.topk.triton.backend import TRITON_TOPK

__all__ = ["TRITON_TOPK"]
