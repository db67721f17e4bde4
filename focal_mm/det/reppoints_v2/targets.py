"""What the head of RepPoints V2 is taught, as functions of boxes and masks.

A point of a level of stride s stands at (x, y) = (column * s, row * s) of the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.models.task_modules import BaseAssigner
from mmdet.models.utils.gaussian_target import gaussian_radius
from mmengine.structures import InstanceData
from torch import Tensor

Size = tuple[int, int]
"""Height and width."""


class CornerTargets(NamedTuple):
    """Targets of the corner branch on one level; corners are top left, bottom right.

    Attributes:
        heatmap: (2, H, W), 1 at the point next to a corner and a Gaussian around it.
        offsets: (4, H, W), from the point to its corner in units of the stride: x, y
            of the top-left corner, then of the other. 0 where there is no corner.
        is_corner: (2, H, W) bool, the points next to a corner.
    """

    heatmap: Tensor
    offsets: Tensor
    is_corner: Tensor


def gaussian_radii(boxes: Tensor, min_iou: float) -> Tensor:
    """How far corners may be off for a box to keep an IoU (CornerNet, section 3.2).

    Args:
        boxes: (G, 4), x1, y1, x2, y2 in pixels.
        min_iou: The IoU to keep.

    Returns:
        (G,) in pixels.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    radii = [gaussian_radius((h, w), min_iou) for w, h in sides.tolist()]
    return boxes.new_tensor(radii)


def corner_targets(
    boxes: Tensor, size: Size, valid_size: Size, stride: int, min_iou: float = 0.7
) -> CornerTargets:
    """Gaussian bumps around the corners (section 3.2.1 and appendix A.1).

    All levels verify the corners of all boxes, each at the point next to it: that is
    among the four at which :func:`refinement.refine_boxes` looks from wherever the box
    was regressed to within half a stride. A Gaussian has the standard deviation
    (2 r + 1) / 6 and ends at the radius r of :func:`gaussian_radii`, both in pixels.
    Where several corners are next to one point, the smallest box has it. Corners more
    than a stride away from all points are not verified: those outside the image.

    Args:
        boxes: (G, 4), x1, y1, x2, y2 in pixels.
        size: H, W of the level.
        valid_size: Size of its part that is not the padding of a batch.
        stride: Pixels between points.
        min_iou: See :func:`gaussian_radii`.

    Returns:
        The targets, on the device of ``boxes``.
    """
    height, width = size
    heatmap = boxes.new_zeros(2, height, width)
    offsets = boxes.new_zeros(4, height, width)
    is_corner = torch.zeros_like(heatmap, dtype=torch.bool)
    if not len(boxes):
        return CornerTargets(heatmap, offsets, is_corner)
    boxes = boxes[area(boxes).argsort()]
    radii = gaussian_radii(boxes, min_iou)[:, None, None] / stride
    sigmas = (2 * radii + 1 / stride) / 6
    columns = torch.arange(width, device=boxes.device)
    rows = torch.arange(height, device=boxes.device)[:, None]
    limit = boxes.new_tensor([valid_size[1] - 1, valid_size[0] - 1])
    for kind, corners in enumerate((boxes[:, :2] / stride, boxes[:, 2:] / stride)):
        x, y = corners[:, :, None, None].unbind(1)
        squared = (columns - x).square() + (rows - y).square()
        bumps = (-squared / (2 * sigmas.square())).exp()
        heatmap[kind] = bumps.where(squared < radii.square(), 0).amax(0)

        points = corners.round().clamp(min=0).minimum(limit)
        seen = (corners - points).abs().amax(1) <= 1
        owners = _first_at(points[seen].long(), size)
        found = owners < seen.sum()
        is_corner[kind] = found
        heatmap[kind, found] = 1
        shift = (corners - points)[seen][owners[found]]
        offsets[2 * kind : 2 * kind + 2, found] = shift.T
    return CornerTargets(heatmap, offsets, is_corner)


def _first_at(points: Tensor, size: Size) -> Tensor:
    """Of points (N, 2), x, y: the index of the first at each place (H, W), else N."""
    height, width = size
    flat = points[:, 1] * width + points[:, 0]
    number = len(points)
    firsts = torch.full((height * width,), number, device=points.device)
    order = torch.arange(number, device=points.device)
    return firsts.scatter_reduce(0, flat, order, "amin").view(height, width)


def area(boxes: Tensor) -> Tensor:
    """Areas (G,) of boxes (G, 4) in square pixels; 0 where a side is negative."""
    return (boxes[:, 2:] - boxes[:, :2]).clamp(min=0).prod(1)


def foreground_targets(
    boxes: Tensor,
    labels: Tensor,
    num_classes: int,
    size: Size,
    stride: int,
    masks: Tensor | None = None,
) -> Tensor:
    """Which cells of the finest level lie in objects (section 3.2.2).

    A cell is the square of ``stride`` pixels to the right of and below a point. It
    belongs to an object if it touches the object's mask, or its box without masks.

    Args:
        boxes: (G, 4), x1, y1, x2, y2 in pixels.
        labels: (G,), classes.
        num_classes: Number of classes C.
        size: H, W of the level.
        stride: Its stride.
        masks: (G, h, w) bool, in pixels.

    Returns:
        (C, H, W): 0 where nothing of a class is, else 1 / area in pixels of the
        smallest box of the class there: its weight in the loss (equation 10).
    """
    height, width = size
    target = boxes.new_zeros(num_classes, height * width)
    if masks is None:
        first, last = (boxes / stride).floor().view(len(boxes), 2, 2, 1).unbind(1)
        columns = torch.arange(width, device=boxes.device)
        rows = torch.arange(height, device=boxes.device)
        in_columns = (first[:, 0] <= columns) & (columns <= last[:, 0])
        in_rows = (first[:, 1] <= rows) & (rows <= last[:, 1])
        inside = in_rows[:, :, None] & in_columns[:, None]
    else:
        inside = touched_cells(masks, size, stride)
    weights = inside.flatten(1) / area(boxes).clamp(min=1)[:, None]
    index = labels[:, None].expand_as(weights)
    return target.scatter_reduce(0, index, weights, "amax").view(-1, height, width)


def touched_cells(masks: Tensor, size: Size, stride: int) -> Tensor:
    """Cells (G, H, W) of ``stride`` pixels that masks (G, h, w) touch; both bool."""
    height, width = size
    missing = (width * stride - masks.shape[2], height * stride - masks.shape[1])
    # Where negative, it is cut off.
    masks = torch.nn.functional.pad(masks, (0, missing[0], 0, missing[1]))
    cells = masks.unflatten(2, (width, stride)).unflatten(1, (height, stride))
    return cells.any(4).any(2)


def assign(
    assigner: BaseAssigner,
    priors: Tensor,
    is_valid: Tensor,
    level_sizes: Sequence[int],
    gt_instances: InstanceData,
    gt_ignored: InstanceData | None = None,
) -> Tensor:
    """Assign objects to points, or to boxes predicted there.

    Args:
        assigner: One of MMDetection's.
        priors: (P, 3) points x, y, stride or (P, 4) boxes, of all levels.
        is_valid: (P,) bool; the others are not assigned.
        level_sizes: Number of points of each level.
        gt_instances: The objects.
        gt_ignored: Objects to be ignored.

    Returns:
        (P,) long: 1 + index of the object, 0 for background, -1 where ignored or not
        valid.
    """
    assigned = torch.full_like(is_valid, -1, dtype=torch.long)
    levels = [int(level.sum()) for level in is_valid.split(list(level_sizes))]
    # PointAssigner indexes a range that it makes on the default device.
    with priors.device:
        result = assigner.assign(
            pred_instances=InstanceData(priors=priors[is_valid]),
            num_level_priors=levels,
            gt_instances=gt_instances,
            gt_instances_ignore=gt_ignored,
        )
    assigned[is_valid] = result.gt_inds
    return assigned
