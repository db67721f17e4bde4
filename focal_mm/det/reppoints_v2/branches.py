"""The two verification branches (RepPoints V2, section 3.2)."""

from __future__ import annotations

import torch
from mmcv.cnn import ConvModule
from mmcv.ops import CornerPool
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn


def with_prior(score: str) -> dict:
    """``init_cfg`` of a module with a prior of 0.01 for what its ``score`` finds."""
    return dict(
        type="Normal",
        layer=["Conv2d", "DeformConv2d"],
        std=0.01,
        override=dict(type="Normal", name=score, std=0.01, bias_prob=0.01),
    )


class Corner(BaseModule):
    """Corner pooling with a short cut (CornerNet, arXiv 1808.01244, figure 7), outputs.

    Args:
        directions: The two directions of the pooling.
        channels: Channels of the input.
        pool_channels: Channels of what is pooled.
        norm_cfg: Norm after each convolution of the pooling.
    """

    def __init__(
        self,
        directions: tuple[str, str],
        channels: int,
        pool_channels: int,
        norm_cfg: dict | None,
    ) -> None:
        super().__init__(with_prior("score"))
        self.before = ModuleList(
            ConvModule(channels, pool_channels, 3, padding=1, norm_cfg=norm_cfg)
            for _ in directions
        )
        self.pools = nn.ModuleList(CornerPool(mode) for mode in directions)
        linear = dict(norm_cfg=norm_cfg, act_cfg=None)
        self.after = ConvModule(pool_channels, channels, 3, padding=1, **linear)
        self.short_cut = ConvModule(channels, channels, 1, **linear)
        self.out = ConvModule(channels, channels, 1, norm_cfg=norm_cfg)
        self.score = nn.Conv2d(channels, 1, 3, padding=1)
        self.offset = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From (B, C, H, W) to a logit (B, 1, H, W) and an offset (B, 2, H, W)."""
        pooled = [
            pool(conv(x)) for conv, pool in zip(self.before, self.pools, strict=True)
        ]
        x = self.out((self.after(sum(pooled)) + self.short_cut(x)).relu())
        return self.score(x), self.offset(x)


class CornerBranch(BaseModule):
    """Is there a corner at this point, and where exactly (section 3.2.1)?

    Args:
        channels: Channels of the input.
        pool_channels: Channels of the corner pooling.
        norm_cfg: Norm after each convolution of the corner pooling.
    """

    def __init__(
        self, channels: int, pool_channels: int, norm_cfg: dict | None
    ) -> None:
        super().__init__()
        # (PyTorch's list does not pass initialisation on.)
        self.corners = ModuleList(
            Corner(directions, channels, pool_channels, norm_cfg)
            for directions in (("top", "left"), ("bottom", "right"))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Verify the points of a map.

        Args:
            x: Features (B, C, H, W).

        Returns:
            Logits (B, 2, H, W) of a top-left and of a bottom-right corner, and
            offsets (B, 4, H, W) from the point to it: x, y of the former and of the
            latter in units of the stride.
        """
        scores, offsets = zip(*(corner(x) for corner in self.corners), strict=True)
        return torch.cat(scores, 1), torch.cat(offsets, 1)


class ForegroundBranch(BaseModule):
    """Is this point within an object, and of which class (section 3.2.2)?

    Args:
        channels: Channels of input and embedding.
        num_classes: Number of classes.
        norm_cfg: Norm of the embedding's convolution.
    """

    def __init__(self, channels: int, num_classes: int, norm_cfg: dict | None) -> None:
        super().__init__(with_prior("score"))
        self.score = nn.Conv2d(channels, num_classes, 1)
        self.embedding = ConvModule(channels, channels, 1, norm_cfg=norm_cfg)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """From (B, C, H, W) to logits (B, classes, H, W), embedding (B, C, H, W)."""
        return self.score(x), self.embedding(x)
