"""Swin itself, of this project's blocks: what the fit of the folded mergings needs."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.interpolate import square_side
from focal_mm.layers import FocalAttention, FocalBlock, PatchEmbed
from focal_mm.ops.window.geometry import FocalGeometry

_TABLE = FocalAttention.bias_name


class PatchMerging(nn.Module):
    """Swin's downsampling: LayerNorm of 2×2 tokens together, then a linear layer.

    Args:
        channels: Channels C of the input.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm((channels, 2, 2))
        self.reduction = nn.Conv2d(channels, 2 * channels, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Merge (B, H, W, C) to (B, ceil(H / 2), ceil(W / 2), 2C)."""
        normed = self.norm(tokens_of_patches(x))
        return torch.einsum("bhwcrs,dcrs->bhwd", normed, self.reduction.weight)


def tokens_of_patches(x: Tensor) -> Tensor:
    """Cut (B, H, W, C), padded at the right and the bottom, into (B, h, w, C, 2, 2)."""
    x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
    return x.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).permute(0, 1, 3, 5, 2, 4)


class Swin(nn.Module):
    """A Swin Transformer of the sizes that its parameters have.

    Args:
        weights: From :func:`focal_mm.checkpoint.swin.names.rename_swin`. Output norms
            and classifier are left out.
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        own = {
            name: value
            for name, value in weights.items()
            if name.startswith(("patch_embed.", "stages."))
        }
        embed_dims, in_channels, patch_size, _ = own["patch_embed.proj.weight"].shape
        has_norm = "patch_embed.norm.weight" in own
        self.patch_embed = PatchEmbed(
            in_channels, embed_dims, patch_size, norm=has_norm
        )
        places = [name.split(".") for name in own if name.endswith(_TABLE)]
        places = sorted((int(name[1]), int(name[3])) for name in places)
        self.stages = nn.ModuleList()
        for stage, blocks in groupby(places, lambda place: place[0]):
            made = [_make_block(own, *place) for place in blocks]
            parts = {"blocks": nn.ModuleList(made)}
            if f"stages.{stage}.downsample.reduction.weight" in own:
                parts["downsample"] = PatchMerging(embed_dims * 2**stage)
            self.stages.append(nn.ModuleDict(parts))
        self.load_state_dict(own)

    @property
    def window_size(self) -> int:
        """Side of a window, in tokens."""
        return self.stages[0]["blocks"][0].geometry.window_size

    def forward(self, images: Tensor) -> list[Tensor]:
        """The maps (N, H, W, C) after the blocks of each stage."""
        x, outs = self.patch_embed(images), []
        for stage in self.stages:
            for block in stage["blocks"]:
                x = block(x)
            outs.append(x)
            if "downsample" in stage:
                x = stage["downsample"](x)
        return outs


def build_swin(weights: Mapping[str, Tensor]) -> Swin:
    """A Swin with weights from a file.

    Raises:
        CheckpointError: If some are missing or do not fit together.
    """
    try:
        return Swin(weights)
    except KeyError as error:
        reason = f"{error} is missing"
    except (RuntimeError, ValueError) as error:
        # PyTorch's first line says only that there is an error.
        reason = " ".join(str(error).split("\n\t", 1)[-1].split())
    raise CheckpointError(f"not the weights of a whole Swin Transformer: {reason}")


def _make_block(weights: Mapping[str, Tensor], stage: int, block: int) -> FocalBlock:
    prefix = f"stages.{stage}.blocks.{block}."
    rows, heads = weights[f"{prefix}attn.{_TABLE}"].shape
    hidden, channels = weights[f"{prefix}mlp.fc1.weight"].shape
    window = (square_side(rows) + 1) // 2
    geometry = FocalGeometry(window, shift_size=window // 2 if block % 2 else 0)
    attention = FocalAttention(channels, heads, geometry)
    return FocalBlock(channels, attention, mlp_ratio=hidden / channels)
