"""The backbone and its presets."""

from focal_mm.models.focal_transformer import FocalTransformer
from focal_mm.models.presets import ARCHS, Arch, parse_arch

__all__ = ["ARCHS", "Arch", "FocalTransformer", "parse_arch"]
