"""Attention to the top-K closest tokens: the key selection of Focal-fast."""

from focal_mm.ops.topk.functional import TOPK_BACKENDS, topk_attention
from focal_mm.ops.topk.geometry import TopKGeometry

__all__ = ["TOPK_BACKENDS", "TopKGeometry", "topk_attention"]
