"""The backbone and its presets."""

from .focal_transformer import FocalTransformer
from .presets import ARCHS, Arch, parse_arch

__all__ = ["ARCHS", "Arch", "FocalTransformer", "parse_arch"]
