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
    height, width = scores.shape[2:]
    # (B, P, 2 kinds, 1) for each axis.
    x, y = (boxes / stride).floor().long().unflatten(2, (2, 2)).split(1, 3)
    columns = (x + x.new_tensor([0, 1, 0, 1])).clamp(0, width - 1)
    rows = (y + y.new_tensor([0, 0, 1, 1])).clamp(0, height - 1)
    # (B, 2 kinds, P, 4 points) indices into a map.
    around = (rows * width + columns).transpose(1, 2)
    found = scores.flatten(2).gather(2, around.flatten(2)).view_as(around)
    place = around.gather(3, found.argmax(3, keepdim=True)).squeeze(3)
    shifts = offsets.flatten(2).gather(2, place.repeat_interleave(2, 1))
    point = torch.stack([place % width, place // width], 2)
    return (point.flatten(1, 2) + shifts).transpose(1, 2) * stride
