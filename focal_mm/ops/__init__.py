"""Focal attention as a function of tensors."""

from .functional import (
    BackendSupport,
    backend_support,
    check_backend_name,
    focal_attention,
)
from .geometry import FocalGeometry

__all__ = [
    "BackendSupport",
    "FocalGeometry",
    "backend_support",
    "check_backend_name",
    "focal_attention",
]
