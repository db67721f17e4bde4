"""The backbone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from mmengine.registry import MODELS
from torch import Tensor, nn

from focal_mm.checkpoint.init import init_from_checkpoint, pretrained_of
from focal_mm.checkpoint.interpolate import resize_pos_embed
from focal_mm.checkpoint.state import adapt_state_dict
from focal_mm.layers import POOLINGS, FocalBlock, make_downsample, make_stem
from focal_mm.models.presets import parse_arch
from focal_mm.models.stage import FocalStage
from focal_mm.ops import FocalGeometry, check_backend_name

EXPAND_LAYERS = ("all", "even", "odd")


@MODELS.register_module()
class FocalTransformer(BaseModule):
    """Focal Transformer for inputs of any size.

    `Focal Self-attention for Local-Global Interactions in Vision Transformers
    <https://arxiv.org/abs/2107.00641>`_. With the arguments of
    :func:`focal_mm.checkpoint.from_released_args` it computes what the released
    ImageNet models compute.

    Arguments that say "per stage" take one value for all stages or one for each.

    Args:
        arch: 'tiny', 'small', 'base', 'large', or a dict with ``embed_dims``,
            ``depths`` and ``num_heads``.
        in_channels: Channels of the image.
        patch_size: Stride of the stem.
        window_size: Side of a window, in tokens; per stage.
        mlp_ratio: Hidden channels of the MLP over its input's.
        qkv_bias: Whether queries, keys and values have a bias.
        qk_scale: Factor of the queries. Default: ``head_dim ** -0.5``.
        drop_rate: Dropout after embedding and projections.
        attn_drop_rate: Dropout of the attention weights.
        drop_path_rate: Stochastic depth of the last block; grows linearly from 0.
        expand_sizes: Tokens by which the fine region exceeds the window on each
            side; per stage. The paper's ImageNet models have (3, 3, 3, 0), its
            detection models 3 everywhere.
        expand_layer: Which blocks of a stage expand: 'all', 'even' (those of odd
            0-based index) or 'odd', in the released code's sense.
        focal_levels: Focal levels, 1 (the fine one) to 3; per stage.
        focal_windows: Side of the region of pooled tokens, odd; per stage. Paper:
            (7, 5, 3, 1) for ImageNet, (15, 13, 9, 7) for detection.
        focal_pool: Pooling of sub-windows: 'fc', 'conv', 'mean', 'max' or 'none'
            ('none' needs ``focal_levels=1``).
        use_conv_embed: Overlapping convolutions in stem and downsampling.
        use_pre_norm: GroupNorm before the downsampling convolutions.
        layer_scale_init_value: Start value of LayerScale; None or 0 for none.
        use_shift: Shift the windows of every second block by half a window.
        use_abs_pos_embed: Add a learned absolute position embedding, resized
            (bicubic) to the input's resolution.
        pretrain_img_size: Image size that the absolute position embedding is made
            for, int or (height, width).
        patch_norm: LayerNorm after stem and downsampling.
        out_indices: Stages whose outputs are returned. Later stages are not built.
        with_cp: Recompute block activations in the backward pass to save memory.
        frozen_stages: Stem and so many stages are frozen: -1 nothing, 0 the stem,
            1 the stem and the first stage, and so on.
        norm_eval: Keep norm layers in eval mode.
        attn_backend: 'auto' or a backend of :func:`focal_mm.ops.backend_support`.
        init_cfg: As in MMEngine. ``dict(type='Pretrained', checkpoint=...)`` takes
            checkpoints of OpenMMLab's layout and released files as they are.

    Raises:
        ValueError: If an argument is out of range or does not fit the others.
    """

    def __init__(
        self,
        arch: str | Mapping[str, int | Sequence[int]] = "tiny",
        in_channels: int = 3,
        patch_size: int = 4,
        window_size: int | Sequence[int] = 7,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        expand_sizes: int | Sequence[int] = (3, 3, 3, 0),
        expand_layer: str = "all",
        focal_levels: int | Sequence[int] = 2,
        focal_windows: int | Sequence[int] = (7, 5, 3, 1),
        focal_pool: str = "fc",
        use_conv_embed: bool = False,
        use_pre_norm: bool = False,
        layer_scale_init_value: float | None = None,
        use_shift: bool = False,
        use_abs_pos_embed: bool = False,
        pretrain_img_size: int | Sequence[int] = 224,
        patch_norm: bool = True,
        out_indices: Sequence[int] = (0, 1, 2, 3),
        with_cp: bool = False,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        attn_backend: str = "auto",
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.arch = parse_arch(arch)
        all_stages = len(self.arch.depths)
        self.out_indices = _check_out_indices(out_indices, all_stages)
        self.num_stages = self.out_indices[-1] + 1
        _check_choice("focal_pool", focal_pool, POOLINGS)
        _check_choice("expand_layer", expand_layer, EXPAND_LAYERS)
        check_backend_name(attn_backend)
        for name, rate in (
            ("drop_rate", drop_rate),
            ("attn_drop_rate", attn_drop_rate),
            ("drop_path_rate", drop_path_rate),
        ):
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must be in [0, 1), got {rate}")
        if not -1 <= frozen_stages <= self.num_stages:
            raise ValueError(
                f"frozen_stages must be between -1 and {self.num_stages}, "
                f"got {frozen_stages}"
            )
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        geometries = _stage_geometries(
            all_stages,
            window_size=window_size,
            expand_sizes=expand_sizes,
            focal_levels=focal_levels,
            focal_windows=focal_windows,
            focal_pool=focal_pool,
        )
        depths = self.arch.depths
        drop_paths = iter(torch.linspace(0, drop_path_rate, sum(depths)).tolist())
        embed_dims = self.arch.embed_dims
        self.num_features = [embed_dims * 2**i for i in range(self.num_stages)]

        self.patch_embed = make_stem(
            in_channels, embed_dims, patch_size, use_conv_embed, patch_norm
        )
        self.absolute_pos_embed = None
        if use_abs_pos_embed:
            sides = _per_stage("pretrain_img_size", pretrain_img_size, 2)
            self.pos_embed_grid = tuple(math.ceil(side / patch_size) for side in sides)
            self.absolute_pos_embed = nn.Parameter(
                torch.empty(1, math.prod(self.pos_embed_grid), embed_dims)
            )
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.stages = nn.ModuleList()
        for stage, channels in enumerate(self.num_features):
            blocks = [
                FocalBlock(
                    channels,
                    self.arch.num_heads[stage],
                    _block_geometry(geometries[stage], index, expand_layer, use_shift),
                    focal_pool=focal_pool,
                    mlp_ratio=mlp_ratio,
                    qkv_bias=qkv_bias,
                    qk_scale=qk_scale,
                    drop_rate=drop_rate,
                    attn_drop_rate=attn_drop_rate,
                    drop_path_rate=next(drop_paths),
                    layer_scale_init_value=layer_scale_init_value or None,
                    attn_backend=attn_backend,
                )
                for index in range(depths[stage])
            ]
            downsample = None
            if stage < self.num_stages - 1:
                downsample = make_downsample(
                    channels, use_conv_embed, patch_norm, use_pre_norm
                )
            self.stages.append(FocalStage(blocks, downsample, with_cp))
        for stage in self.out_indices:
            self.add_module(f"norm{stage}", nn.LayerNorm(self.num_features[stage]))

        self.apply(_init_linear)
        self._register_load_state_dict_pre_hook(adapt_state_dict, with_module=True)
        self._freeze_stages()

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; see :mod:`focal_mm.checkpoint.init`.

        Raises:
            focal_mm.checkpoint.CheckpointError: If the checkpoint cannot be read or
                is not of this model; nothing is loaded then.
        """
        others, pretrained = pretrained_of(self.init_cfg)
        configured, self.init_cfg = self.init_cfg, others
        super().init_weights()
        self.init_cfg = configured
        if pretrained is None:
            print_log(
                "FocalTransformer: init_cfg names no checkpoint, random weights until "
                "one is loaded",
                logger="current",
            )
            return
        init_from_checkpoint(self, pretrained)
        if hasattr(self, "_params_init_info"):
            update_init_info(self, f"loaded from {pretrained['checkpoint']}")

    def _pos_embed(self, height: int, width: int) -> Tensor:
        """The absolute position embedding for a map, (1, height, width, C)."""
        table = resize_pos_embed(
            self.absolute_pos_embed, self.pos_embed_grid, (height, width)
        )
        return table.view(1, height, width, -1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute feature maps.

        Args:
            x: Image, (N, in_channels, H, W) of any H and W from 1 up.

        Returns:
            One map (N, C_i, ceil(H / stride_i), ceil(W / stride_i)) for each stage i
            of ``out_indices``, with stride_i = patch_size * 2^i, after its norm.
        """
        x = self.patch_embed(x)
        if self.absolute_pos_embed is not None:
            x = x + self._pos_embed(*x.shape[1:3])
        x = self.drop_after_pos(x)
        outs = []
        for index, stage in enumerate(self.stages):
            out, x = stage(x)
            if index in self.out_indices:
                norm = getattr(self, f"norm{index}")
                outs.append(norm(out).permute(0, 3, 1, 2).contiguous())
        return tuple(outs)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen: list[nn.Module] = [self.patch_embed, self.drop_after_pos]
        if self.absolute_pos_embed is not None:
            self.absolute_pos_embed.requires_grad_(False)
        for index in range(self.frozen_stages):
            frozen.append(self.stages[index])
            if index in self.out_indices:
                frozen.append(getattr(self, f"norm{index}"))
        for module in frozen:
            module.eval()
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> FocalTransformer:
        """Set the mode; frozen stages (and norms with ``norm_eval``) stay in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, nn.LayerNorm | nn.GroupNorm):
                    module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Depth of a parameter, for layer-wise learning rate decay.

        Args:
            param_name: Name of the parameter in the whole model.
            prefix: Name of the backbone in the whole model with its dot.

        Returns:
            The depth (0: the stem; then one for each block) and the number of depths.
        """
        depths = self.arch.depths[: self.num_stages]
        num_layers = sum(depths) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        parts = param_name[len(prefix) :].split(".")
        if parts[0] in ("patch_embed", "absolute_pos_embed"):
            return 0, num_layers
        if parts[0] == "stages":
            stage = int(parts[1])
            if parts[2] == "downsample":
                return sum(depths[: stage + 1]), num_layers
            return sum(depths[:stage]) + int(parts[3]) + 1, num_layers
        return num_layers - 2, num_layers


def _init_linear(module: nn.Module) -> None:
    """Linear layers: truncated normal 0.02, zero bias, as in the released code."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")


def _check_out_indices(out_indices: Sequence[int], stages: int) -> tuple[int, ...]:
    indices = tuple(out_indices)
    fits = bool(indices) and all(0 <= index < stages for index in indices)
    if not fits or list(indices) != sorted(set(indices)):
        raise ValueError(
            f"out_indices must be increasing stages between 0 and {stages - 1}, "
            f"got {indices}"
        )
    return indices


def _per_stage(name: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Spread a single value over ``count`` stages (or sides)."""
    values = (value,) * count if isinstance(value, int) else tuple(value)
    if len(values) != count:
        raise ValueError(f"{name} must be one value or {count} values, got {values}")
    return values


def _stage_geometries(
    stages: int,
    *,
    window_size: int | Sequence[int],
    expand_sizes: int | Sequence[int],
    focal_levels: int | Sequence[int],
    focal_windows: int | Sequence[int],
    focal_pool: str,
) -> list[FocalGeometry]:
    """Sizes of each stage's attention, named as the arguments in errors."""
    levels = _per_stage("focal_levels", focal_levels, stages)
    if min(levels) < 1 or max(levels) > 3:
        raise ValueError(f"focal_levels must be 1, 2 or 3, got {levels}")
    if focal_pool == "none" and max(levels) > 1:
        raise ValueError(
            f"focal_pool='none' leaves only the fine level: focal_levels must be 1, "
            f"got {levels}"
        )
    values = zip(
        _per_stage("window_size", window_size, stages),
        _per_stage("expand_sizes", expand_sizes, stages),
        _per_stage("focal_windows", focal_windows, stages),
        levels,
        strict=True,
    )
    geometries = []
    for stage, (window, expand, focal_window, level) in enumerate(values):
        try:
            geometries.append(FocalGeometry(window, expand, focal_window, level - 1))
        except ValueError as error:
            raise ValueError(f"stage {stage}: {error}") from None
    return geometries


def _block_geometry(
    stage: FocalGeometry, index: int, expand_layer: str, use_shift: bool
) -> FocalGeometry:
    """Sizes of the block of 0-based ``index`` in its stage."""
    odd = index % 2 == 1
    expands = expand_layer == "all" or odd == (expand_layer == "even")
    return FocalGeometry(
        window_size=stage.window_size,
        expand_size=stage.expand_size if expands else 0,
        focal_window=stage.focal_window,
        coarse_levels=stage.coarse_levels,
        shift_size=stage.window_size // 2 if use_shift and odd else 0,
    )
