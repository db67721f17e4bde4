"""Modules that own parameters: embedding, pooling, attention, block."""

from .attention import FocalAttention
from .block import FocalBlock
from .patch_embed import PatchEmbed, make_downsample, make_stem
from .pooling import POOLINGS, SubWindowPooling

__all__ = [
    "POOLINGS",
    "FocalAttention",
    "FocalBlock",
    "PatchEmbed",
    "SubWindowPooling",
    "make_downsample",
    "make_stem",
]
