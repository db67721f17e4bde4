"""Fitting the downsampling norms to Swin's activations."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from focal_mm.checkpoint.swin.folding import fold_merging
from focal_mm.checkpoint.swin.network import PatchMerging, tokens_of_patches


@torch.no_grad()
def fit_downsample(merging: PatchMerging, x: Tensor) -> dict[str, Tensor]:
    """A downsampling that computes about what Swin's merging does of some maps.

    The convolution is the folded merging, its bias for the mean deviation of the maps'
    tokens; weight and bias of the norm are each channel's linear regression.

    Args:
        merging: Swin's.
        x: Maps before it, (B, H, W, C).

    Returns:
        ``proj.weight``, ``proj.bias``, ``norm.weight`` and ``norm.bias``.
    """
    kernel, bias = fold_merging(
        merging.norm.weight, merging.norm.bias, merging.reduction.weight
    )
    tokens = tokens_of_patches(x)
    bias = bias * tokens.flatten(-3).std(-1, correction=0).mean()
    wanted = merging(x).flatten(0, 2).double()
    got = torch.einsum("bhwcrs,dcrs->bhwd", tokens, kernel) + bias
    got = F.layer_norm(got, got.shape[-1:]).flatten(0, 2).double()
    var, mean = torch.var_mean(got, 0, correction=0)
    wanted_mean = wanted.mean(0)
    # A channel that is the same everywhere keeps its value by the bias.
    slope = ((got - mean) * (wanted - wanted_mean)).mean(0) / var.clamp_min(1e-12)
    return {
        "proj.weight": kernel,
        "proj.bias": bias,
        "norm.weight": slope.to(kernel),
        "norm.bias": (wanted_mean - slope * mean).to(kernel),
    }


def smooth_noise(channels: int, size: int) -> Tensor:
    """Seeded images without any content, neighbouring pixels of which are alike.

    Args:
        channels: Channels of an image.
        size: Side of an image in pixels.

    Returns:
        (4, channels, size, size), of unit deviation.
    """
    source = torch.Generator().manual_seed(0)
    noise = sum(
        F.interpolate(
            torch.randn(4, channels, cells, cells, generator=source),
            (size, size),
            mode="bicubic",
        )
        for cells in (3, 8, 24, 64)
    )
    return noise / noise.std()
