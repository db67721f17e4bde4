"""Focal attention as a function of tensors."""

from focal_mm.ops.common.dispatch import check_backend_name
from focal_mm.ops.topk import TOPK_BACKENDS, TopKGeometry, topk_attention
from focal_mm.ops.window import (
    BACKENDS,
    FocalGeometry,
    backend_support,
    focal_attention,
)

__all__ = [
    "BACKENDS",
    "TOPK_BACKENDS",
    "FocalGeometry",
    "TopKGeometry",
    "backend_support",
    "check_backend_name",
    "focal_attention",
    "topk_attention",
]
