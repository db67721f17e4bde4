"""Focal attention as a function of tensors; needs PyTorch and nothing else."""

from focal_mm.ops.common.dispatch import check_backend_name
from focal_mm.ops.registry import BACKENDS, BackendSupport, backend_support
from focal_mm.ops.topk.functional import topk_attention
from focal_mm.ops.topk.geometry import TopKGeometry
from focal_mm.ops.window.functional import focal_attention
from focal_mm.ops.window.geometry import FocalGeometry

__all__ = [
    "BACKENDS",
    "BackendSupport",
    "FocalGeometry",
    "TopKGeometry",
    "backend_support",
    "check_backend_name",
    "focal_attention",
    "topk_attention",
]
