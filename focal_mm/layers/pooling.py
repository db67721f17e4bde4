"""Sub-window pooling (paper, equation 1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

POOLINGS = ("fc", "conv", "mean", "max", "none")


def centre_to(tokens: Tensor, height: int, width: int) -> Tensor:
    """Trim or zero-pad a map (B, H, W, C) to (B, height, width, C), centred."""
    margins = []
    for size, wanted in ((tokens.shape[2], width), (tokens.shape[1], height)):
        excess = size - wanted
        before = -(excess // 2) if excess > 0 else -excess // 2
        margins += [before, -excess - before]
    if not any(margins):
        return tokens
    return nn.functional.pad(tokens, (0, 0, *margins))


class SubWindowPooling(nn.Module):
    """Pool each sub-window of a map to one token.

    Args:
        method: 'fc' (one weight per position, shared by all channels, and one bias),
            'conv' (depthwise convolution), 'mean' or 'max'.
        sub_window_size: Side of a sub-window in tokens.
        channels: Channels of the map.
    """

    def __init__(self, method: str, sub_window_size: int, channels: int) -> None:
        super().__init__()
        self.method = method
        self.size = sub_window_size
        if method == "fc":
            self.weight = nn.Parameter(torch.empty(1, sub_window_size**2))
            self.bias = nn.Parameter(torch.zeros(1))
            nn.init.trunc_normal_(self.weight, std=0.02)
        elif method == "conv":
            conv = nn.Conv2d(
                channels, channels, sub_window_size, sub_window_size, groups=channels
            )
            self.weight, self.bias = conv.weight, conv.bias

    def forward(self, x: Tensor) -> Tensor:
        """Pool (B, rows * size, cols * size, C) to (B, rows, cols, C)."""
        size = self.size
        x = x.unflatten(2, (-1, size)).unflatten(1, (-1, size))
        if self.method == "mean":
            return x.mean((2, 4))
        if self.method == "max":
            return x.amax((2, 4))
        if self.method == "fc":
            weight = self.weight.view(size, size)
            if x.device.type == "cpu":
                # Each row of a sub-window where it lies: einsum copies the map first.
                return (weight[:, None, None] @ x).squeeze(-2).sum(2) + self.bias
            return torch.einsum("brhcwd,hw->brcd", x, weight) + self.bias
        weight = self.weight.squeeze(1)
        return torch.einsum("brhcwd,dhw->brcd", x, weight) + self.bias

    def extra_repr(self) -> str:
        return f"method={self.method}, sub_window_size={self.size}"
