"""Joint inference: regressed corners move to verified ones (section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def refine_boxes(boxes: Tensor, scores: Tensor, offsets: Tensor, stride: int) -> Tensor:
    """Move each corner to the likeliest of the four points around it (equation 2).

    Args:
        boxes: (B, P, 4), x1, y1, x2, y2 in pixels.
        scores: (B, 2, H, W), of a top-left and of a bottom-right corner.
        offsets: (B, 4, H, W), from the points to the corners, x, y of either, in units
            of the stride.
        stride: Pixels between points.

    Returns:
        (B, P, 4).
    """
    refined = [
        _refine_corners(
            boxes[..., 2 * kind : 2 * kind + 2],
            scores[:, kind],
            offsets[:, 2 * kind : 2 * kind + 2],
            stride,
        )
        for kind in range(2)
    ]
    return torch.cat(refined, -1)


def _refine_corners(
    corners: Tensor, scores: Tensor, offsets: Tensor, stride: int
) -> Tensor:
    """The same for corners (B, P, 2) of one kind, scores (B, H, W), offsets."""
    height, width = scores.shape[1:]
    limit = corners.new_tensor([width - 1, height - 1])
    steps = corners.new_tensor([[0, 0], [1, 0], [0, 1], [1, 1]])
    around = (corners / stride).floor()[:, :, None] + steps
    around = around.clamp(min=0).minimum(limit)
    flat = (around[..., 1] * width + around[..., 0]).long()
    found = scores.flatten(1).gather(1, flat.flatten(1)).view_as(flat)
    best = found.argmax(2, keepdim=True)
    point = around.gather(2, best[..., None].expand(-1, -1, -1, 2)).squeeze(2)
    place = flat.gather(2, best).squeeze(2)[:, None].expand(-1, 2, -1)
    return (point + offsets.flatten(2).gather(2, place).transpose(1, 2)) * stride
