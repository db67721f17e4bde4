"""Focal attention as a function of tensors."""

from focal_mm.ops.functional import (
    BackendSupport,
    backend_support,
    check_backend_name,
    focal_attention,
)
from focal_mm.ops.geometry import FocalGeometry
from focal_mm.ops.topk import TOPK_BACKENDS, TopKGeometry, topk_attention

__all__ = [
    "TOPK_BACKENDS",
    "BackendSupport",
    "FocalGeometry",
    "TopKGeometry",
    "backend_support",
    "check_backend_name",
    "focal_attention",
    "topk_attention",
]
