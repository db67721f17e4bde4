"""Joint inference: corners move to planted peaks."""

from __future__ import annotations

import pytest
import torch

from focal_mm.det.reppoints_v2.refinement import refine_boxes

STRIDE = 8
BOX = (41.0, 50.0, 103.0, 117.0)
# Those of the four points around each of its corners that score highest.
PEAKS = [(6, 6), (12, 15)]


def planted() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A box, and maps with a peak and an offset at one point for either corner."""
    boxes = torch.tensor([[BOX]])
    scores = torch.full((1, 2, 20, 24), -5.0)
    offsets = torch.zeros(1, 4, 20, 24)
    for kind, (column, row) in enumerate(PEAKS):
        scores[0, kind, row, column] = 3
        offsets[0, 2 * kind : 2 * kind + 2, row, column] = torch.tensor([0.25, -0.5])
    return boxes, scores, offsets


def test_corners_move_to_the_peaks():
    refined = refine_boxes(*planted(), STRIDE)
    assert refined[0, 0].tolist() == [6.25 * 8, 5.5 * 8, 12.25 * 8, 14.5 * 8]


@pytest.mark.parametrize("kind", [0, 1])
def test_each_corner_has_its_own_map(kind):
    """Without a peak, a corner goes to the point above and to the left."""
    boxes, scores, offsets = planted()
    scores[:, 1 - kind] = offsets[:, 2 - 2 * kind : 4 - 2 * kind] = 0
    refined = refine_boxes(boxes, scores, offsets, STRIDE)[0, 0]
    moved = refine_boxes(*planted(), STRIDE)[0, 0]
    here, other = slice(2 * kind, 2 * kind + 2), slice(2 - 2 * kind, 4 - 2 * kind)
    assert torch.equal(refined[here], moved[here])
    assert torch.equal(refined[other], boxes[0, 0, other].div(8).floor() * 8)


def test_peaks_farther_away_do_not_count():
    boxes, scores, offsets = planted()
    scores[0, 0, 6, 7] = 9
    refined = refine_boxes(boxes, scores, offsets, STRIDE)
    assert torch.equal(refined, refine_boxes(*planted(), STRIDE))


def test_corners_at_and_beyond_the_border():
    boxes = torch.tensor([[[-30.0, -1.0, 192.0, 500.0], [184.0, 152.0, 191.0, 159.0]]])
    scores, offsets = torch.zeros(1, 2, 20, 24), torch.zeros(1, 4, 20, 24)
    refined = refine_boxes(boxes, scores, offsets, STRIDE)[0]
    assert refined[0].tolist() == [0, 0, 184, 152]
    assert refined[1].tolist() == [184, 152, 184, 152]


def test_images_of_a_batch_do_not_mix():
    boxes, scores, offsets = planted()
    empty = torch.zeros_like(scores), torch.zeros_like(offsets)
    refined = refine_boxes(
        boxes.expand(2, 1, 4),
        torch.cat([empty[0], scores]),
        torch.cat([empty[1], offsets]),
        STRIDE,
    )
    assert torch.equal(refined[1:], refine_boxes(boxes, scores, offsets, STRIDE))
    assert refined[0, 0].tolist() == [40, 48, 96, 112]
