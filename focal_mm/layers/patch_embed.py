"""Patch embedding: the stem and the downsampling between stages."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Convolution that reduces the resolution, then LayerNorm.

    Maps that the stride does not divide are padded at the right and the bottom.

    Args:
        in_channels: Channels of the input.
        embed_dims: Channels of the output.
        stride: Factor by which the resolution is reduced.
        kernel_size: Side of the kernel. Default: ``stride``, patches that touch.
        padding: Zero padding of the convolution on each side.
        norm: Whether LayerNorm follows.
        pre_norm: Whether GroupNorm with one group stands before.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dims: int,
        stride: int,
        kernel_size: int | None = None,
        padding: int = 0,
        norm: bool = True,
        pre_norm: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.pre_norm = nn.GroupNorm(1, in_channels) if pre_norm else None
        self.proj = nn.Conv2d(
            in_channels,
            embed_dims,
            kernel_size=stride if kernel_size is None else kernel_size,
            stride=stride,
            padding=padding,
        )
        self.norm = nn.LayerNorm(embed_dims) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """Embed (N, C, H, W) to (N, ceil(H / stride), ceil(W / stride), D)."""
        if self.pre_norm is not None:
            x = self.pre_norm(x)
        height, width = x.shape[-2:]
        x = F.pad(x, (0, -width % self.stride, 0, -height % self.stride))
        x = self.proj(x).permute(0, 2, 3, 1)
        return x if self.norm is None else self.norm(x)


def make_stem(
    in_channels: int, embed_dims: int, patch_size: int, overlap: bool, norm: bool
) -> PatchEmbed:
    """The first embedding; ``overlap`` takes a 7×7 kernel with padding 2."""
    if overlap:
        return PatchEmbed(in_channels, embed_dims, patch_size, 7, 2, norm=norm)
    return PatchEmbed(in_channels, embed_dims, patch_size, norm=norm)


def make_downsample(
    in_channels: int, overlap: bool, norm: bool, pre_norm: bool
) -> PatchEmbed:
    """Halve the resolution, double the channels; ``overlap`` takes a 3×3 kernel."""
    kernel, padding = (3, 1) if overlap else (2, 0)
    return PatchEmbed(
        in_channels, 2 * in_channels, 2, kernel, padding, norm=norm, pre_norm=pre_norm
    )
