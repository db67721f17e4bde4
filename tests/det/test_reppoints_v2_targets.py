"""Targets of RepPoints V2 on boxes made by hand, with known answers."""

from __future__ import annotations

import math

import pytest
import torch
from mmdet.models.task_modules import ATSSAssigner, PointAssigner
from mmdet.models.task_modules.prior_generators import MlvlPointGenerator
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from focal_mm.det.reppoints_v2.targets import (
    assign,
    corner_targets,
    foreground_targets,
    gaussian_radii,
    touched_cells,
)

SIZE = (40, 30)


def boxes_of(*boxes: tuple[float, ...]) -> Tensor:
    return torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)


def instances(boxes: Tensor, labels: list[int] | None = None) -> InstanceData:
    labels = list(range(len(boxes))) if labels is None else labels
    return InstanceData(bboxes=boxes, labels=torch.tensor(labels, dtype=torch.long))


@pytest.mark.parametrize("min_iou", [0.3, 0.7])
def test_radius_is_where_the_iou_is_lost(min_iou):
    """Of two corners that are off by r: both out, both in, or one of each."""
    box = boxes_of((30, 40, 190, 240))
    r = gaussian_radii(box, min_iou).item()
    moved = box + r * boxes_of((-1, -1, 1, 1), (1, 1, -1, -1), (1, 1, 1, 1))
    assert bbox_overlaps(moved, box).min().item() == pytest.approx(min_iou, abs=1e-4)


def test_corners_of_one_box():
    """Corners at (5, 5) and (25, 30) in strides of 8; r = 14.4 px, sigma = 5 px."""
    box = boxes_of((40, 40, 200, 240))
    targets = corner_targets(box, SIZE, SIZE, 8)
    sigma = (2 * gaussian_radii(box, 0.7).item() + 1) / 6
    for kind, (column, row) in enumerate([(5, 5), (25, 30)]):
        heat = targets.heatmap[kind]
        assert heat[row, column] == 1
        assert targets.is_corner[kind].nonzero().tolist() == [[row, column]]
        beside, across = (math.exp(-d / (2 * sigma**2)) for d in (64, 128))
        for down, right in [(0, 1), (1, 0), (0, -1), (-1, 0)]:
            value = heat[row + down, column + right].item()
            assert value == pytest.approx(beside, rel=1e-5)
        assert heat[row + 1, column + 1].item() == pytest.approx(across, rel=1e-5)
        # Two strides away is more than the radius.
        assert heat.count_nonzero() == 9
    assert not targets.offsets.any()


def test_offsets_lead_from_the_nearest_point_to_the_corner():
    targets = corner_targets(boxes_of((17, 30, 45, 53)), SIZE, SIZE, 8)
    assert targets.is_corner.nonzero().tolist() == [[0, 4, 2], [1, 7, 6]]
    assert targets.offsets[:2, 4, 2].tolist() == [1 / 8, -2 / 8]
    assert targets.offsets[2:, 7, 6].tolist() == [-3 / 8, -3 / 8]
    assert targets.offsets.count_nonzero() == 4


def test_a_small_box_has_its_corners_on_every_level():
    box = boxes_of((70, 70, 76, 79))
    for stride, size, point in [(8, SIZE, 9), (16, (20, 15), 4), (128, (3, 2), 1)]:
        targets = corner_targets(box, size, size, stride)
        assert targets.is_corner[0].nonzero().tolist() == [[point, point]]
        # The Gaussian is smaller than a stride.
        assert torch.equal(targets.heatmap == 1, targets.is_corner)
        shift = (70 - point * stride) / stride
        assert targets.offsets[:2, point, point].tolist() == [shift, shift]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_corners_at_one_point_the_smallest_boxs_counts(order):
    boxes = boxes_of((16, 16, 200, 200), (18, 17, 60, 50))[list(order)]
    targets = corner_targets(boxes, SIZE, SIZE, 8)
    assert targets.is_corner[0].nonzero().tolist() == [[2, 2]]
    assert targets.offsets[:2, 2, 2].tolist() == [2 / 8, 1 / 8]
    assert targets.is_corner[1].sum() == 2


def test_bumps_do_not_add_up():
    near = corner_targets(
        boxes_of((40, 40, 200, 240), (56, 40, 200, 240)), *[SIZE] * 2, 8
    )
    heat = near.heatmap[0]
    alone = corner_targets(boxes_of((40, 40, 200, 240)), SIZE, SIZE, 8).heatmap[0]
    assert heat[5, 5] == heat[5, 7] == 1
    assert heat[5, 6] == pytest.approx(alone[5, 6].item(), rel=0.1)


def test_corners_outside_the_image_are_not_verified():
    """A box larger than the image has none; one that leaves it has those inside."""
    width, height = SIZE[1] * 8, SIZE[0] * 8
    boxes = boxes_of((-90, -80, width + 90, height + 80), (40, 48, width + 50, 400))
    targets = corner_targets(boxes, SIZE, SIZE, 8)
    assert targets.is_corner.nonzero().tolist() == [[0, 6, 5]]
    assert (targets.heatmap == 1).sum() == 1
    # The last point of the map is a stride before its end.
    whole = corner_targets(boxes_of((0, 0, width, height)), SIZE, SIZE, 8)
    assert whole.is_corner.nonzero().tolist() == [[0, 0, 0], [1, 39, 29]]
    assert whole.offsets[2:, 39, 29].tolist() == [1, 1]


def test_corners_stay_off_the_padding():
    """Of an image of 80 x 64 in a larger batch."""
    targets = corner_targets(boxes_of((8, 8, 80, 64)), SIZE, (8, 10), 8)
    assert targets.is_corner[1].nonzero().tolist() == [[7, 9]]
    assert targets.offsets[2:, 7, 9].tolist() == [1, 1]


def test_no_objects():
    targets = corner_targets(boxes_of(), SIZE, SIZE, 8)
    assert [t.shape[0] for t in targets] == [2, 4, 2]
    assert not any(t.any() for t in targets)
    no_labels = torch.zeros(0, dtype=torch.long)
    assert not foreground_targets(boxes_of(), no_labels, 3, SIZE, 8).any()


def test_a_box_without_an_area_is_harmless():
    boxes = boxes_of((20, 20, 20, 20), (50, 50, 40, 60))
    for target in corner_targets(boxes, SIZE, SIZE, 8):
        assert target.float().isfinite().all()
    target = foreground_targets(boxes, torch.tensor([0, 1]), 2, SIZE, 8)
    assert target[0].nonzero().tolist() == [[2, 2]]
    assert target[0, 2, 2] == 1


def test_foreground_is_what_a_box_touches():
    target = foreground_targets(
        boxes_of((9, 17, 30, 40)), torch.tensor([1]), 3, SIZE, 8
    )
    expected = torch.zeros(3, *SIZE)
    expected[1, 2:6, 1:4] = 1 / (21 * 23)
    torch.testing.assert_close(target, expected)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_the_smallest_box_of_a_class_decides_the_weight(order):
    boxes = boxes_of((0, 0, 100, 100), (16, 16, 24, 24), (0, 0, 300, 300))
    labels = torch.tensor([1, 1, 0])
    order = list(order)
    target = foreground_targets(boxes[order], labels[order], 2, SIZE, 8)
    assert target[1, 2, 2] == pytest.approx(1 / 64)
    assert target[1, 5, 5] == pytest.approx(1 / 100**2)
    assert target[0, 2, 2] == pytest.approx(1 / 300**2)
    assert target[1, 20, 20] == 0


def test_foreground_of_masks():
    """An L: 8 x 24 pixels, and 16 x 8 to the right of its foot."""
    masks = torch.zeros(1, 50, 61, dtype=torch.bool)
    masks[0, 8:32, 16:24] = True
    masks[0, 24:32, 16:40] = True
    box = boxes_of((16, 8, 40, 32))
    target = foreground_targets(box, torch.tensor([0]), 1, (8, 8), 8, masks)
    assert target.nonzero()[:, 1:].tolist() == [[1, 2], [2, 2], [3, 2], [3, 3], [3, 4]]
    assert target.max() == pytest.approx(1 / 24**2)


def test_cells_touched_by_a_pixel():
    masks = torch.zeros(2, 20, 20, dtype=torch.bool)
    masks[0, 15, 16] = masks[1, 19, 0] = True
    assert touched_cells(masks, (3, 3), 8).nonzero().tolist() == [[0, 1, 2], [1, 2, 0]]
    # Larger and smaller than the map.
    assert touched_cells(masks, (2, 2), 8).sum() == 0
    assert touched_cells(masks, (5, 6), 8).shape == (2, 5, 6)


@pytest.fixture
def points() -> tuple[Tensor, list[int]]:
    """x, y, stride of the points of two levels on 64 x 64 pixels."""
    levels = MlvlPointGenerator([8, 16], offset=0.0).grid_priors(
        [(8, 8), (4, 4)], device="cpu", with_stride=True
    )
    return torch.cat(levels)[:, :3], [64, 16]


def test_first_boxes_are_assigned_to_the_point_at_the_centre(points):
    """On the level of log2(side / 4): 32 pixels to that of stride 8."""
    priors, sizes = points
    gt = instances(boxes_of((8, 16, 42, 46), (0, 0, 64, 64)))
    valid = torch.ones(80, dtype=torch.bool)
    assigner = PointAssigner(scale=4, pos_num=1)
    assigned = assign(assigner, priors, valid, sizes, gt)
    (first,), (second,) = ((assigned == i).nonzero()[:, 0] for i in (1, 2))
    assert priors[first].tolist() == [24, 32, 8]
    assert priors[second].tolist() == [32, 32, 16]
    assert (assigned == 0).sum() == 78


def test_points_on_the_padding_are_not_assigned(points):
    priors, sizes = points
    gt = instances(boxes_of((20, 20, 60, 60)))
    valid = (priors[:, :2] < 32).all(1)
    for assigner, candidates in [
        (PointAssigner(scale=4, pos_num=1), priors),
        (ATSSAssigner(topk=9), priors[:, [0, 1, 0, 1]] + boxes_of((-9, -9, 30, 30))),
    ]:
        assigned = assign(assigner, candidates, valid, sizes, gt)
        assert (assigned[~valid] == -1).all()
        assert (assigned[valid] >= 0).all()
        assert (assigned == 1).any()


def test_atss_takes_candidates_from_each_level(points):
    """All boxes are the object's: its nine candidates on either level are positive."""
    _, sizes = points
    box = boxes_of((16, 16, 48, 48))
    valid = torch.ones(80, dtype=torch.bool)
    assigned = assign(
        ATSSAssigner(topk=9), box.expand(80, 4), valid, sizes, instances(box)
    )
    assert [(level == 1).sum() for level in assigned.split(sizes)] == [9, 9]


def test_without_objects_all_is_background(points):
    priors, sizes = points
    valid = torch.ones(80, dtype=torch.bool)
    boxes = priors[:, [0, 1, 0, 1]] + boxes_of((-9, -9, 9, 9))
    for assigner, candidates in [
        (PointAssigner(scale=4, pos_num=1), priors),
        (ATSSAssigner(topk=9), boxes),
    ]:
        assigned = assign(assigner, candidates, valid, sizes, instances(boxes_of()))
        assert not assigned.any()


def test_assigners_make_tensors_on_the_device_of_the_points(points):
    """MMDetection's PointAssigner names no device for a range of indices."""
    seen = []

    class Assigner(PointAssigner):
        def assign(self, *args, **kwargs):
            seen.append(torch.arange(3).device.type)
            return super().assign(*args, **kwargs)

    class Meta(torch.Tensor):
        device = torch.device("meta")

    priors, sizes = points
    gt = instances(boxes_of())
    valid = torch.ones(80, dtype=torch.bool)
    assigner = Assigner(scale=4, pos_num=1)
    assign(assigner, priors.as_subclass(Meta), valid, sizes, gt)
    assert seen == ["meta"]
