"""Focal attention: keys in fixed regions around each window."""

from focal_mm.ops.window.backends import BACKENDS
from focal_mm.ops.window.functional import backend_support, focal_attention
from focal_mm.ops.window.geometry import FocalGeometry
from focal_mm.ops.window.inputs import AttentionInputs

__all__ = [
    "BACKENDS",
    "AttentionInputs",
    "FocalGeometry",
    "backend_support",
    "focal_attention",
]
