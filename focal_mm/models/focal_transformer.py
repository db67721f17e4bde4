"""The backbone."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import torch
from mmengine.logging import print_log
from mmengine.model import BaseModule, update_init_info
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from focal_mm.checkpoint.init import init_from_checkpoint, pretrained_of
from focal_mm.checkpoint.interpolate import resize_pos_embed
from focal_mm.checkpoint.state import adapt_state_dict
from focal_mm.layers import (
    ATTENTIONS,
    FocalBlock,
    PatchEmbed,
    make_downsample,
    make_stem,
)
from focal_mm.models.arguments import check_types
from focal_mm.models.key_selection import block_geometries, per_stage
from focal_mm.models.presets import parse_arch
from focal_mm.ops import BACKENDS, check_backend_name
from focal_mm.ops.common.dispatch import check_range


class FocalStage(nn.Module):
    """Blocks, then the downsampling that leads to the next stage.

    Args:
        blocks: The blocks.
        downsample: The embedding after them; None for the last stage.
        with_cp: Whether activations are recomputed in the backward pass.
    """

    def __init__(
        self,
        blocks: Sequence[FocalBlock],
        downsample: PatchEmbed | None,
        with_cp: bool,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
        self.with_cp = with_cp

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Transform a map.

        Args:
            x: (N, H, W, C).

        Returns:
            The output of the blocks (N, H, W, C), and the next stage's input
            (N, ceil(H/2), ceil(W/2), 2C), which is the same tensor after the last
            stage.
        """
        for block in self.blocks:
            if self.with_cp and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        if self.downsample is None:
            return x, x
        return x, self.downsample(x.permute(0, 3, 1, 2))


@MODELS.register_module()
class FocalTransformer(BaseModule):
    """Focal Transformer for inputs of any size.

    Focal Self-attention for Local-Global Interactions in Vision Transformers,
    https://arxiv.org/abs/2107.00641. With the arguments of
    :func:`focal_mm.checkpoint.from_released_args` it computes what the released
    ImageNet models compute.

    Arguments that say "per stage" take one value for all stages or one for each.

    With ``key_selection='topk'`` it is Focal-fast, version 2 of the released code:
    the keys are chosen by distance, and the options of the fixed regions
    (``expand_sizes``, ``expand_layer``, ``focal_windows``, ``use_shift``) are errors.
    Its position biases are functions of offsets, so a checkpoint fits every input,
    window size and ``topk`` without resizing them.

    Args:
        arch: 'tiny', 'small', 'base', 'large' or another key of
            :data:`focal_mm.models.presets.ARCHS`, or a dict with ``embed_dims``,
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
            side; per stage. Default: (3, 3, 3, 0), those of the paper's ImageNet
            models; its detection models have 3 everywhere.
        expand_layer: Which blocks of a stage expand: 'all' (the default), 'even'
            (those of odd 0-based index) or 'odd', in the released code's sense.
        focal_levels: Focal levels, 1 (the fine one) to 3, or to 2 with
            ``key_selection='topk'``; per stage.
        focal_windows: Side of the region of pooled tokens, odd; per stage. Default:
            (7, 5, 3, 1), those of the paper's ImageNet models; its detection models
            have (15, 13, 9, 7).
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
        attn_backend: 'auto' or a backend that :func:`focal_mm.ops.backend_support`
            lists for the key selection.
        key_selection: Which keys a window sees: 'window', those in fixed regions
            around it at each focal level (the paper's models), or 'topk', the
            closest ones of each level's whole map (Focal-fast).
        topk: Keys of each level with ``key_selection='topk'``, all tokens where a map
            has fewer; per stage. Default: 128.
        init_cfg: As in MMEngine. ``dict(type='Pretrained', checkpoint=...)`` takes
            checkpoints of OpenMMLab's layout, released files and those of the projects
            in :data:`focal_mm.checkpoint.layouts.LAYOUTS` as they are.

    Raises:
        TypeError: If an argument is not of its annotated type.
        ValueError: If an argument is out of range or does not fit the others.
    """

    @check_types
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
        expand_sizes: int | Sequence[int] | None = None,
        expand_layer: str | None = None,
        focal_levels: int | Sequence[int] = 2,
        focal_windows: int | Sequence[int] | None = None,
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
        key_selection: str = "window",
        topk: int | Sequence[int] | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.arch = parse_arch(arch)
        all_stages = len(self.arch.depths)
        self.out_indices = _check_out_indices(out_indices, all_stages)
        self.num_stages = self.out_indices[-1] + 1
        for name, rate in (
            ("drop_rate", drop_rate),
            ("attn_drop_rate", attn_drop_rate),
            ("drop_path_rate", drop_path_rate),
        ):
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must be in [0, 1), got {rate}")
        for name, number in (("in_channels", in_channels), ("patch_size", patch_size)):
            check_range(name, number, 1)
        if not mlp_ratio > 0:
            raise ValueError(f"mlp_ratio must be above 0, got {mlp_ratio}")
        check_range("frozen_stages", frozen_stages, -1, self.num_stages)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval

        depths = self.arch.depths
        geometries = block_geometries(
            depths,
            key_selection,
            window_size=window_size,
            focal_levels=focal_levels,
            focal_pool=focal_pool,
            options=dict(
                expand_sizes=expand_sizes,
                expand_layer=expand_layer,
                focal_windows=focal_windows,
                topk=topk,
                use_shift=use_shift or None,
            ),
        )
        check_backend_name(attn_backend, BACKENDS[key_selection])
        # Numbers even where the model is built without data, on the meta device.
        rates = torch.linspace(0, drop_path_rate, sum(depths), device="cpu")
        drop_paths = iter(rates.tolist())
        embed_dims = self.arch.embed_dims
        self.num_features = [embed_dims * 2**i for i in range(self.num_stages)]

        self.patch_embed = make_stem(
            in_channels, embed_dims, patch_size, use_conv_embed, patch_norm
        )
        self.absolute_pos_embed = None
        if use_abs_pos_embed:
            sides = per_stage("pretrain_img_size", pretrain_img_size, 2)
            check_range("pretrain_img_size", min(sides), 1)
            self.pos_embed_grid = tuple(math.ceil(side / patch_size) for side in sides)
            self.absolute_pos_embed = nn.Parameter(
                torch.empty(1, math.prod(self.pos_embed_grid), embed_dims)
            )
            nn.init.trunc_normal_(self.absolute_pos_embed, std=0.02)
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.stages = nn.ModuleList()
        attention = functools.partial(
            ATTENTIONS[key_selection],
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate,
            backend=attn_backend,
        )
        for stage, channels in enumerate(self.num_features):
            heads = self.arch.num_heads[stage]
            blocks = [
                FocalBlock(
                    channels,
                    attention(channels, heads, geometry),
                    focal_pool=focal_pool,
                    mlp_ratio=mlp_ratio,
                    drop_rate=drop_rate,
                    drop_path_rate=next(drop_paths),
                    layer_scale_init_value=layer_scale_init_value or None,
                )
                for geometry in geometries[stage]
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
            update_init_info(self, f"loaded from {pretrained.checkpoint}")

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
        kind, *parts = param_name.removeprefix(prefix).split(".")
        if not param_name.startswith(prefix):
            depth = sum(depths) + 1
        elif kind in ("patch_embed", "absolute_pos_embed"):
            depth = 0
        elif kind == "stages" and parts[1] == "downsample":
            depth = sum(depths[: int(parts[0]) + 1])
        elif kind == "stages":
            depth = sum(depths[: int(parts[0])]) + int(parts[2]) + 1
        else:
            depth = sum(depths)
        return depth, sum(depths) + 2


def _init_linear(module: nn.Module) -> None:
    """Linear layers: truncated normal 0.02, zero bias, as in the released code."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_out_indices(out_indices: Sequence[int], stages: int) -> tuple[int, ...]:
    indices = tuple(out_indices)
    fits = bool(indices) and all(0 <= index < stages for index in indices)
    if not fits or list(indices) != sorted(set(indices)):
        raise ValueError(
            f"out_indices must be increasing stages between 0 and {stages - 1}, "
            f"got {indices}"
        )
    return indices
