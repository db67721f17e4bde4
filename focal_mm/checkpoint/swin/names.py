"""Swin's parameters by one set of names, whoever wrote the file.

Known are the layouts of the authors (classifiers and their detectors), of timm, of
torchvision, and of mmpretrain, mmdet and mmseg.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.checkpoint.parts import split_backbone
from focal_mm.checkpoint.read import state_dict_of

_MERGING = re.compile(r"(?:^|\.)(?:downsample|features\.\d+)\.reduction\.weight$")
_DERIVED = re.compile(r"(?:^|\.)(?:relative_position_index|attn_mask)$")

# The first: of OpenMMLab, and of the authors and timm; the second: of torchvision.
_STAGE = re.compile(r"(?:stages\.|layers[._])(\d+)\.(.+)")
_FEATURES = re.compile(r"features\.(\d+)\.(.+)")

_PARTS = (
    ("attn.w_msa.", "attn."),
    ("ffn.layers.0.0.", "mlp.fc1."),
    ("ffn.layers.1.", "mlp.fc2."),
    ("mlp.0.", "mlp.fc1."),
    ("mlp.3.", "mlp.fc2."),
    ("patch_embed.projection.", "patch_embed.proj."),
)

_KNOWN = re.compile(
    r"(?:patch_embed\.(?:proj|norm)|norm\d*|head\.fc|stages\.\d+\.(?:"
    r"downsample\.norm|blocks\.\d+\.(?:norm[12]|attn\.(?:qkv|proj)|mlp\.fc[12])))"
    r"\.(?:weight|bias)"
    r"|stages\.\d+\.(?:downsample\.reduction\.weight"
    r"|blocks\.\d+\.attn\.relative_position_bias_table)"
)


def is_swin(state: Mapping[str, Tensor]) -> bool:
    """Whether these are a Swin's parameters: it merges 4C numbers to 2C by a linear
    layer, a Focal Transformer by a convolution.
    """
    return any(
        _MERGING.search(name) and value.ndim == 2 and 2 * len(value) == value.shape[1]
        for name, value in state.items()
    )


def read_swin(
    state: Mapping[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Find a Swin's parameters in a file and bring them under this project's names.

    Args:
        state: Parameters of a backbone, a classifier or a whole detector by name, or a
            file's dict around them.

    Returns:
        The parameters of the backbone, and of a classifier of any layout but
        OpenMMLab's, as :func:`rename_swin` has them, where there are no biases of
        ``qkv`` with such of zeros; and all others as they are.

    Raises:
        CheckpointError: If a name is not one of a Swin's.
    """
    own, others = split_backbone(state_dict_of(state, "the file"))
    weights = rename_swin(own)
    biases = {
        f"{name.removesuffix('weight')}bias": value.new_zeros(len(value))
        for name, value in weights.items()
        if name.endswith("attn.qkv.weight")
    }
    return biases | weights, others


def rename_swin(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring a Swin's parameters under this project's names.

    Args:
        state: A backbone or a classifier in one of the layouts.

    Returns:
        The parameters as ``patch_embed.…``, ``stages.i.blocks.j.…``, ``norm3.…`` and
        ``head.fc.…``. What has no place in a Focal Transformer is the merging after
        stage i, in the order of a kernel: ``stages.i.downsample.norm.…`` (C, 2, 2) and
        ``stages.i.downsample.reduction.weight`` (2C, C, 2, 2).

    Raises:
        CheckpointError: If a name is not one of a Swin's.
    """
    # timm moved the merging from the end of a stage to the start of the next.
    at_start = any(re.match(r"layers[._]\d", name) for name in state) and not any(
        re.match(r"layers[._]0\.downsample\.", name) for name in state
    )
    unfolded = any(name.startswith("stages.") for name in state)
    renamed = {}
    for name, value in state.items():
        if _DERIVED.search(name):
            continue
        new_name = _rename(name, at_start)
        if not _KNOWN.fullmatch(new_name):
            raise CheckpointError(
                f"{name!r} is not a name in a Swin Transformer checkpoint (of version "
                "1; version 2 is another network)"
            )
        if ".downsample." in new_name:
            value = _as_kernel(value, unfolded)
        renamed[new_name] = value
    stages = (int(name.split(".")[1]) for name in renamed if "stages." in name)
    last_norm = max(stages, default=3)
    return {
        re.sub(r"^norm\.", f"norm{last_norm}.", name): value
        for name, value in renamed.items()
    }


def _rename(name: str, at_start: bool) -> str:
    """One name; it stays as it is where no layout's pattern fits."""
    for theirs, ours in _PARTS:
        name = name.replace(theirs, ours)
    name = re.sub(r"^head\.(?=weight|bias)", "head.fc.", name)
    if found := _STAGE.fullmatch(name):
        stage, rest = int(found[1]), found[2]
        if rest.startswith("downsample."):
            stage -= at_start
        return f"stages.{stage}.{rest}"
    if found := _FEATURES.fullmatch(name):
        # Stem, then blocks and mergings in turns.
        place, rest = int(found[1]), found[2]
        stage, merges = divmod(place - 1, 2)
        if place == 0:
            rest = re.sub(r"^0\.", "proj.", re.sub(r"^2\.", "norm.", rest))
            return f"patch_embed.{rest}"
        return f"stages.{stage}.{'downsample' if merges else 'blocks'}.{rest}"
    return name


def _as_kernel(value: Tensor, unfolded: bool) -> Tensor:
    """Unflatten the last axis, the 4C numbers of 2×2 tokens, to (C, row, column).

    ``torch.nn.Unfold``, which OpenMMLab uses, lists the tokens of each channel; all
    others list the channels of each token, column by column.
    """
    if unfolded:
        return value.unflatten(-1, (-1, 2, 2))
    return value.unflatten(-1, (2, 2, -1)).movedim(-1, -3).transpose(-1, -2)
