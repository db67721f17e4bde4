"""The backbone and its presets."""

from focal_mm.models.focal_transformer import FocalTransformer
from focal_mm.models.log import forward_to_mmengine
from focal_mm.models.presets import ARCHS, Arch, parse_arch

__all__ = ["ARCHS", "Arch", "FocalTransformer", "parse_arch"]

forward_to_mmengine()
