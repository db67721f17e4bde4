"""Swin Transformers' weights as a start: names, folding, fitting."""

from focal_mm.checkpoint.swin.convert import convert_swin
from focal_mm.checkpoint.swin.names import is_swin

__all__ = ["convert_swin", "is_swin"]
