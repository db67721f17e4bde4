"""Modules that own parameters: embedding, pooling, attention, block."""

from focal_mm.layers.attention import (
    ATTENTIONS,
    FocalAttention,
    MultiLevelAttention,
    TopKAttention,
)
from focal_mm.layers.block import FocalBlock
from focal_mm.layers.patch_embed import PatchEmbed, make_downsample, make_stem
from focal_mm.layers.pooling import POOLINGS, SubWindowPooling

__all__ = [
    "ATTENTIONS",
    "POOLINGS",
    "FocalAttention",
    "FocalBlock",
    "MultiLevelAttention",
    "PatchEmbed",
    "SubWindowPooling",
    "TopKAttention",
    "make_downsample",
    "make_stem",
]
