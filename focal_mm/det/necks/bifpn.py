"""Weighted bi-directional feature pyramid (EfficientDet, arXiv 1911.09070)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn


class FusionNode(BaseModule):
    """One node: weighted sum, Swish, 3x3 convolution and norm.

    The weights are those of fast normalised fusion (section 3.3): each is kept
    non-negative by a ReLU and divided by the sum of all.

    Args:
        num_inputs: Maps to fuse, all of one shape.
        channels: Channels of the maps.
        norm_cfg: Norm after the convolution.
        eps: Added to the sum of the weights.
    """

    def __init__(
        self, num_inputs: int, channels: int, norm_cfg: dict | None, eps: float = 1e-4
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_inputs))
        self.eps = eps
        self.conv = ConvModule(
            channels, channels, 3, padding=1, norm_cfg=norm_cfg, act_cfg=None
        )

    def forward(self, *maps: Tensor) -> Tensor:
        """Fuse maps (B, C, H, W) to one of the same shape."""
        weight = self.weight.relu()
        shares = weight / (weight.sum() + self.eps)
        fused = sum(share * x for share, x in zip(shares, maps, strict=True))
        return self.conv(nn.functional.silu(fused))


class BiFPNLayer(BaseModule):
    """One top-down and one bottom-up pass over L levels: 2 (L - 1) nodes (figure 3).

    Args:
        num_levels: L, at least 2.
        channels: Channels of all maps.
        norm_cfg: Norm after each node's convolution.
    """

    def __init__(self, num_levels: int, channels: int, norm_cfg: dict | None) -> None:
        super().__init__()
        self.top_down = nn.ModuleList(
            FusionNode(2, channels, norm_cfg) for _ in range(num_levels - 1)
        )
        # The topmost level has no top-down node that could be fused into it.
        inputs = [3] * (num_levels - 2) + [2]
        self.bottom_up = nn.ModuleList(
            FusionNode(number, channels, norm_cfg) for number in inputs
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """From and to maps (B, C, H_i, W_i), the finest first."""
        down = [maps[-1]]
        for node, fine in zip(reversed(self.top_down), maps[-2::-1], strict=True):
            coarse = nn.functional.interpolate(down[0], size=fine.shape[2:])
            down.insert(0, node(fine, coarse))
        outs = [down[0]]
        for level, node in enumerate(self.bottom_up, 1):
            own = [maps[level]]
            if level < len(maps) - 1:
                own.append(down[level])
            outs.append(node(*own, halve(outs[-1])))
        return outs


def halve(x: Tensor) -> Tensor:
    """Max-pool a map (B, C, H, W) to half its size, rounded up."""
    return nn.functional.max_pool2d(x, 3, stride=2, padding=1)


@MODELS.register_module()
class BiFPN(BaseModule):
    """BiFPN neck for any backbone, as in Swin's detection repository.

    Levels above the backbone's are max-pooled from its last map. 1x1 convolutions bring
    all levels to one width (a level that has it passes as it is); then all are fused
    ``num_repeats`` times.

    The size of a level must be half of that below it, rounded up, as backbones of
    OpenMMLab give it for images padded to a multiple of their largest stride.

    Args:
        in_channels: Channels of the backbone's maps, the finest first.
        out_channels: Channels of all outputs.
        num_outs: Number of outputs.
        num_repeats: Number of :class:`BiFPNLayer`.
        norm_cfg: Norm after every convolution.
        init_cfg: As MMEngine has it.

    Raises:
        ValueError: If the numbers of levels do not fit together.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int = 256,
        num_outs: int = 5,
        num_repeats: int = 2,
        norm_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(
            init_cfg or dict(type="Xavier", layer="Conv2d", distribution="uniform")
        )
        self.num_inputs = len(in_channels)
        if not 1 <= self.num_inputs <= num_outs or num_outs < 2:
            raise ValueError(
                "BiFPN needs at least one input, two outputs and no more inputs than "
                f"outputs, got {self.num_inputs} and num_outs={num_outs}"
            )
        if num_repeats < 1:
            raise ValueError(f"num_repeats must be at least 1, got {num_repeats}")
        self.num_outs = num_outs
        extra = [in_channels[-1]] * (num_outs - self.num_inputs)
        self.lateral_convs = nn.ModuleList(
            nn.Identity()
            if channels == out_channels
            else ConvModule(channels, out_channels, 1, norm_cfg=norm_cfg, act_cfg=None)
            for channels in [*in_channels, *extra]
        )
        self.layers = nn.ModuleList(
            BiFPNLayer(num_outs, out_channels, norm_cfg) for _ in range(num_repeats)
        )

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Make a pyramid of a backbone's maps.

        Args:
            inputs: Maps (B, C_i, H_i, W_i), one for each of ``in_channels``.

        Returns:
            ``num_outs`` maps (B, out_channels, H_i, W_i), the finest first.

        Raises:
            ValueError: If the number of maps is another.
        """
        if len(inputs) != self.num_inputs:
            raise ValueError(f"expected {self.num_inputs} maps, got {len(inputs)}")
        maps = list(inputs)
        while len(maps) < self.num_outs:
            maps.append(halve(maps[-1]))
        maps = [conv(x) for conv, x in zip(self.lateral_convs, maps, strict=True)]
        for layer in self.layers:
            maps = layer(maps)
        return tuple(maps)
