"""Focal attention as a function of tensors."""

from focal_mm.ops.functional import (
    BackendSupport,
    backend_support,
    check_backend_name,
    focal_attention,
)
from focal_mm.ops.geometry import FocalGeometry

__all__ = [
    "BackendSupport",
    "FocalGeometry",
    "backend_support",
    "check_backend_name",
    "focal_attention",
]
