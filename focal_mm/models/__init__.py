"""The backbone, its presets, and models by name."""

from focal_mm.models.classifier import FocalClassifier, FocalFeatures
from focal_mm.models.create import create_model
from focal_mm.models.focal_transformer import FocalTransformer
from focal_mm.models.log import forward_to_mmengine
from focal_mm.models.presets import ARCHS, MODELS, Arch, parse_arch
from focal_mm.models.timm_registry import register_with_timm

__all__ = [
    "ARCHS",
    "MODELS",
    "Arch",
    "FocalClassifier",
    "FocalFeatures",
    "FocalTransformer",
    "create_model",
    "parse_arch",
]

forward_to_mmengine()
register_with_timm()
