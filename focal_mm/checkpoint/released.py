"""The released code's checkpoints and constructor arguments in our terms."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.ops.common.dispatch import check_choice

DERIVED_BUFFER = re.compile(
    r"(^|\.)(relative_position_index\w*|valid_ind_rolled|valid_ind_unfold_\w+"
    r"|attn_mask|topk_cloest_\w+|window_coords)(\.\d+)?$"
)
"""Buffers of the released code that follow from the sizes (the spelling is theirs)."""

_BACKBONE_KEY = re.compile(
    r"patch_embed\.(proj|norm|pre_norm)\.(weight|bias)|absolute_pos_embed"
    r"|layers\.\d+\.(downsample\.(proj|norm|pre_norm)\.(weight|bias)"
    r"|blocks\.\d+\.("
    r"(norm1|norm2|attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2|pool_layers\.\d+)"
    r"\.(weight|bias)"
    r"|attn\.relative_position_bias_table(_to_neighbors|_to_windows\.\d+)?"
    r"|attn\.coord2rpb_all\.\d+\.[02]\.(weight|bias)"
    r"|gamma_[12]))"
)


def is_released(state_dict: Mapping[str, Any]) -> bool:
    """Whether the names are those of the released code's models."""
    return any(re.match(r"layers\.\d+\.blocks\.\d+\.", name) for name in state_dict)


def convert_released(state_dict: Mapping[str, Any]) -> dict[str, Tensor]:
    """Rename a released checkpoint to the layout of an mmpretrain ImageClassifier.

    Both versions of the released code are known, the second being Focal-fast.

    Args:
        state_dict: Tensors under the released names, or the released file's
            ``{"model": ...}`` around them. May be a part of a model.

    Returns:
        The same tensors under ``backbone.…`` and ``head.fc.…``, without the derived
        buffers.

    Raises:
        CheckpointError: If a name is not one of a released Focal Transformer's.
    """
    if isinstance(state_dict.get("model"), Mapping):
        state_dict = state_dict["model"]
    stages = re.findall(r"^layers\.(\d+)\.", "\n".join(state_dict), re.MULTILINE)
    last_stage = max(map(int, stages), default=3)
    converted = {}
    for name, value in state_dict.items():
        if DERIVED_BUFFER.search(name):
            continue
        if name in ("norm.weight", "norm.bias"):
            new_name = f"backbone.norm{last_stage}.{name.split('.')[1]}"
        elif name in ("head.weight", "head.bias"):
            new_name = f"head.fc.{name.split('.')[1]}"
        elif _BACKBONE_KEY.fullmatch(name):
            new_name = "backbone." + re.sub(r"^layers\.", "stages.", name)
        else:
            raise CheckpointError(
                f"{name!r} is not a name in a released Focal Transformer checkpoint"
            )
        converted[new_name] = value
    return converted


_ARGS: dict[str, tuple[Any, str]] = {
    "img_size": (224, ""),
    "patch_size": (4, "patch_size"),
    "in_chans": (3, "in_channels"),
    "num_classes": (1000, ""),
    "embed_dim": (96, ""),
    "depths": ((2, 2, 6, 2), ""),
    "num_heads": ((3, 6, 12, 24), ""),
    "window_size": (7, ""),
    "mlp_ratio": (4.0, "mlp_ratio"),
    "qkv_bias": (True, "qkv_bias"),
    "qk_scale": (None, "qk_scale"),
    "drop_rate": (0.0, "drop_rate"),
    "attn_drop_rate": (0.0, "attn_drop_rate"),
    "drop_path_rate": (0.1, "drop_path_rate"),
    "ape": (False, "use_abs_pos_embed"),
    "patch_norm": (True, "patch_norm"),
    "use_checkpoint": (False, "with_cp"),
    "use_shift": (False, "use_shift"),
    "focal_stages": ((0, 1, 2, 3), ""),
    "focal_levels": ((1, 1, 1, 1), ""),
    "focal_windows": ((7, 5, 3, 1), ""),
    "focal_pool": ("fc", "focal_pool"),
    "expand_stages": ((0, 1, 2, 3), ""),
    "expand_sizes": ((3, 3, 3, 3), ""),
    "expand_layer": ("all", ""),
    "use_conv_embed": (False, "use_conv_embed"),
    "use_layerscale": (False, ""),
    "layerscale_value": (1e-4, ""),
    "use_pre_norm": (False, ""),
}
"""The released constructor's arguments: their defaults, and our names for those that
are carried over as they are. ``num_classes`` and ``expand_stages`` have no effect on
its backbone."""

_ARGS_OF = {"v1": _ARGS, "v2": {**_ARGS, "focal_topK": (128, "topk")}}
"""Arguments by version; 128 is what all released configs of Focal-fast have."""


def from_released_args(
    kwargs: Mapping[str, Any],
    version: str = "v1",
    img_size: int | Sequence[int] = (224, 224),
) -> dict[str, Any]:
    """Turn the released code's constructor arguments into a backbone config.

    The released code cuts the window to the shorter side of a stage's map where that
    is not larger than the window, and does not expand there; so the config depends on
    the image size that the model was built for.

    Version 2 (Focal-fast) has version 1's arguments and ``focal_topK``. Those of the
    fixed focal regions have no effect in it and are left out of the config.

    Args:
        kwargs: Arguments of the released ``FocalTransformer``; missing ones take its
            defaults.
        version: 'v1', or 'v2' for Focal-fast.
        img_size: Image size that the model was built for, int or (height, width);
            ``kwargs['img_size']`` wins over it.

    Returns:
        Config of :class:`focal_mm.models.FocalTransformer` with its ``type``, whose
        only output is the last stage's, as classifiers want it.

    Raises:
        ValueError: If an argument is unknown or the version is not there.
    """
    check_choice("version", version, tuple(_ARGS_OF))
    known = _ARGS_OF[version]
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise ValueError(
            f"unknown arguments of the released FocalTransformer ({version}): "
            f"{unknown}; known are {sorted(known)}"
        )
    defaults = {name: default for name, (default, _) in known.items()}
    args = {**defaults, "img_size": img_size, **kwargs}
    sides = args["img_size"]
    sides = (sides, sides) if isinstance(sides, int) else tuple(sides)
    windows, expands, levels = [], [], []
    for stage in range(len(args["depths"])):
        shorter = min(sides) // args["patch_size"] // 2**stage
        fits = shorter > args["window_size"]
        windows.append(args["window_size"] if fits else shorter)
        expands.append(args["expand_sizes"][stage] if fits else 0)
        pools = stage in args["focal_stages"] and args["focal_pool"] != "none"
        levels.append(args["focal_levels"][stage] if pools else 1)
    regions = dict(
        expand_sizes=tuple(expands),
        expand_layer=args["expand_layer"],
        focal_windows=tuple(args["focal_windows"]),
    )
    return dict(
        type="FocalTransformer",
        arch=dict(
            embed_dims=args["embed_dim"],
            depths=tuple(args["depths"]),
            num_heads=tuple(args["num_heads"]),
        ),
        **{ours: args[name] for name, (_, ours) in known.items() if ours},
        # Without patch_norm the released code has no norm of either kind.
        use_pre_norm=args["use_pre_norm"] and args["patch_norm"],
        layer_scale_init_value=(
            args["layerscale_value"] if args["use_layerscale"] else None
        ),
        pretrain_img_size=sides,
        out_indices=(len(args["depths"]) - 1,),
        window_size=tuple(windows),
        focal_levels=tuple(levels),
        **(regions if version == "v1" else {"key_selection": "topk"}),
    )
