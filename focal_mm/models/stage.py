"""One stage: blocks at one resolution, then the way to the next."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from focal_mm.layers import FocalBlock, PatchEmbed


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
