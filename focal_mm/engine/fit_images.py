"""``tools/convert_checkpoint.py --fit-images``: a Swin, some images, and how near."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor

from focal_mm.checkpoint.parts import split_backbone
from focal_mm.checkpoint.swin import convert_swin
from focal_mm.checkpoint.swin.folding import expand_size
from focal_mm.checkpoint.swin.names import read_swin
from focal_mm.checkpoint.swin.network import Swin, build_swin
from focal_mm.engine.errors import UserError
from focal_mm.models import FocalTransformer

MOST_IMAGES = 16
"""So many images of a folder are read: more change the fit little."""

_MEAN = (123.675, 116.28, 103.53)
_STD = (58.395, 57.12, 57.375)


def read_images(folder: Path, size: int) -> Tensor:
    """Read the first images of a folder, by name.

    Args:
        folder: With images in any format that OpenCV reads.
        size: Side to which they are resized, in pixels.

    Returns:
        RGB, normalised as ImageNet's models have it, (at most 16, 3, size, size).

    Raises:
        UserError: If there is no image.
    """
    images = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else ():
        image = cv2.imread(str(path)) if cv2.haveImageReader(str(path)) else None
        if image is not None:
            image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
            images.append(torch.from_numpy(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)))
        if len(images) == MOST_IMAGES:
            break
    if not images:
        raise UserError(f"--fit-images: there is no image in {folder}")
    normalised = (torch.stack(images) - torch.tensor(_MEAN)) / torch.tensor(_STD)
    return normalised.permute(0, 3, 1, 2)


def fit_to_images(state: Mapping[str, Any], folder: Path) -> dict[str, Tensor]:
    """Convert a Swin's weights and fit them to what it makes of some images.

    Prints how near the features of each stage are to Swin's on these images, before and
    after. The Focal Transformer of that expands in every stage and has the focal
    regions of the paper's ImageNet models.

    Args:
        state: As :func:`focal_mm.checkpoint.convert_swin` takes it.
        folder: With images.

    Returns:
        The converted weights.

    Raises:
        UserError: If there is no image, or the Swin takes other channels.
        focal_mm.checkpoint.CheckpointError: If it is no Swin Transformer's.
    """
    swin = build_swin(read_swin(state)[0])
    channels = swin.patch_embed.proj.in_channels
    if channels != 3:
        raise UserError(f"--fit-images: the Swin is for {channels} channels, not RGB")
    # Whole windows in all stages: 224 pixels for windows of 7, 384 for 12.
    images = read_images(folder, 32 * swin.window_size)
    before, after = convert_swin(state), convert_swin(state, images)
    table = Table(
        "stage",
        *(f"{what}\n{when}" for when in ("before", "after") for what in _MEASURES),
        title=f"features beside Swin's on {len(images)} images of {folder}",
    )
    with torch.no_grad():
        wanted = swin(images)
        columns = [
            distances(stage_maps(focal_like(swin, weights), images), wanted)
            for weights in (before, after)
        ]
    for stage, pairs in enumerate(zip(*columns, strict=True)):
        table.add_row(str(stage), *(f"{one:.3f}" for pair in pairs for one in pair))
    Console().print(table)
    return after


_MEASURES = ("relative error", "cosine")


def distances(got: list[Tensor], wanted: list[Tensor]) -> list[tuple[float, float]]:
    """Relative error and mean cosine of the tokens of each stage's maps."""
    return [
        (
            ((one - other).norm() / other.norm()).item(),
            F.cosine_similarity(one, other, dim=-1).mean().item(),
        )
        for one, other in zip(got, wanted, strict=True)
    ]


def focal_like(swin: Swin, weights: Mapping[str, Tensor]) -> FocalTransformer:
    """A Focal Transformer of a Swin's sizes with converted weights."""
    blocks = [stage["blocks"] for stage in swin.stages]
    model = FocalTransformer(
        arch=dict(
            embed_dims=swin.patch_embed.proj.out_channels,
            depths=[len(stage) for stage in blocks],
            num_heads=[stage[0].attn.num_heads for stage in blocks],
        ),
        in_channels=swin.patch_embed.proj.in_channels,
        patch_size=swin.patch_embed.stride,
        patch_norm=swin.patch_embed.norm is not None,
        window_size=swin.window_size,
        expand_sizes=expand_size(swin.window_size),
    )
    model.load_state_dict(split_backbone(weights)[0], strict=False)
    return model.eval()


def stage_maps(model: FocalTransformer, images: Tensor) -> list[Tensor]:
    """The maps (N, H, W, C) after the blocks of each stage, before output norms."""
    x, maps = model.patch_embed(images), []
    for stage in model.stages:
        out, x = stage(x)
        maps.append(out)
    return maps
