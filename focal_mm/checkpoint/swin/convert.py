"""A Swin Transformer's weights as a start for a Focal Transformer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor

from focal_mm.checkpoint.parts import BACKBONE
from focal_mm.checkpoint.swin.fitting import fit_downsample, smooth_noise
from focal_mm.checkpoint.swin.folding import REGION_BIAS, new_parameters
from focal_mm.checkpoint.swin.names import read_swin
from focal_mm.checkpoint.swin.network import build_swin

_NOISE_SIZE = 128


def convert_swin(
    state: Mapping[str, Any], images: Tensor | None = None
) -> dict[str, Tensor]:
    """Turn a Swin Transformer's weights into a start for a Focal Transformer.

    Stem, norms, projections, MLPs and window tables are Swin's own. Each patch merging
    becomes a convolution and a norm that compute about the same: exactly what it
    computes, but for a factor of each token, see :func:`fold_merging`. The tables of
    neighbours go on as those of the windows; a pooled token is the mean of its
    sub-window, and hardly counts at first.

    Known are the layouts of the authors, timm, torchvision, mmpretrain, mmdet and
    mmseg, whole detectors and segmentors too, whose necks and heads stay as they are.

    Args:
        state: Parameters by name, or a file's dict around them.
        images: What the norms of the downsampling are fitted on, normalised, (N, 3, H,
            W). Default: seeded smooth noise.

    Returns:
        The layout of an mmpretrain ImageClassifier or of the detector: ``backbone.…``
        and the rest. For two focal levels, with the paper's expansion in every stage
        and its focal regions at 224×224; loading resizes to others.

    Raises:
        CheckpointError: If it is no Swin Transformer's.
    """
    weights, others = read_swin(state)
    swin = build_swin(weights)
    fitted_on = "images" if images is not None else "noise"
    if images is None:
        images = smooth_noise(swin.patch_embed.proj.in_channels, _NOISE_SIZE)
    with torch.no_grad():
        maps = swin(images)

    converted = {k: v for k, v in weights.items() if ".downsample." not in k}
    mapped, folded = len(converted), 0
    for index, stage in enumerate(swin.stages):
        prefix = f"stages.{index}."
        new = {}
        if "downsample" in stage:
            fitted = fit_downsample(stage["downsample"], maps[index])
            new |= {f"downsample.{name}": value for name, value in fitted.items()}
            folded += 1
        for block, module in enumerate(stage["blocks"]):
            beside = new_parameters(module.attn.relative_position_bias_table, index)
            new |= {f"blocks.{block}.{name}": value for name, value in beside.items()}
        converted |= {prefix + name: value for name, value in new.items()}
    print_log(
        f"Swin Transformer: {mapped} tensors mapped; {folded} patch mergings folded "
        f"into convolutions, norms fitted on {fitted_on}; initialised: tables of "
        "neighbours as the window's go on, pooling as means, tables of pooled tokens "
        f"with {REGION_BIAS}",
        logger="current",
    )
    return others | {
        name if name.startswith("head.") else BACKBONE + name: value.detach()
        for name, value in converted.items()
    }
