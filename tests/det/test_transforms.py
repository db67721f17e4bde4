"""InstaBoost, with its package, as HTC++ trains with it."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope

CONFIG = Path(__file__).parents[2] / "configs/det/htc_plusplus_focal_large_3x.py"


@pytest.fixture
def transforms():
    """InstaBoost, always applied, and the loading of annotations."""
    pytest.importorskip(
        "instaboostfast", reason="needs the extra: pip install 'focal_mm[instaboost]'"
    )
    cfg = Config.fromfile(CONFIG)
    init_default_scope("mmdet")
    _, instaboost, annotations = cfg.train_dataloader.dataset.pipeline[:3]
    instaboost.update(aug_ratio=1.0, color_prob=0.0)
    annotations.update(with_seg=False)
    np.random.seed(0)
    return [TRANSFORMS.build(transform) for transform in (instaboost, annotations)]


def test_instaboost_moves_instances_with_their_annotations(transforms):
    # A white square on black, which the transform cannot tell from another instance.
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:70, 40:90] = 255
    square = [40.0, 30.0, 90.0, 30.0, 90.0, 70.0, 40.0, 70.0]
    boxes = []
    for _ in range(5):
        found = dict(
            img=image.copy(),
            img_shape=(120, 160),
            ori_shape=(120, 160),
            height=120,
            width=160,
            instances=[
                dict(bbox=[40, 30, 90, 70], bbox_label=3, mask=[square], ignore_flag=0)
            ],
        )
        for transform in transforms:
            found = transform(found)
        assert found["img"].shape == image.shape
        assert found["img"].dtype == np.uint8
        assert found["gt_bboxes_labels"].tolist() == [3]
        (mask,) = found["gt_masks"].masks.astype(bool)
        white = found["img"][..., 0] > 127
        assert (mask & white).sum() / (mask | white).sum() > 0.85
        rows, columns = np.nonzero(mask)
        extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = found["gt_bboxes"].tensor[0].tolist()
        assert box == pytest.approx(extent, abs=1.5)
        boxes.append(tuple(box))
    assert len(set(boxes)) == 5


def test_instaboost_moves_instances_of_several_pieces(transforms):
    """Contours of different lengths, which the package's own function fails with."""
    pieces = [[20, 20, 60, 20, 60, 50, 20, 50], [80, 60, 95, 60, 95, 70, 80, 70]]
    image = np.full((120, 160, 3), 127, np.uint8)
    found = dict(
        img=image,
        img_shape=(120, 160),
        ori_shape=(120, 160),
        height=120,
        width=160,
        instances=[
            dict(bbox=[20, 20, 95, 70], bbox_label=1, mask=pieces, ignore_flag=0)
        ],
    )
    for transform in transforms:
        found = transform(found)
    (mask,) = found["gt_masks"].masks
    _, places = cv2.connectedComponents(mask)
    areas = sorted(np.bincount(places.ravel())[1:])
    # The two pieces, scaled alike.
    assert len(areas) == 2
    assert areas[1] / areas[0] == pytest.approx(1200 / 150, rel=0.2)


def test_mask_to_polygons_draws_the_mask_again():
    polygons_of = pytest.importorskip("focal_mm.det.instaboost").mask_to_polygons
    pytest.importorskip("skimage", reason="needs the extra instaboost")
    mask = np.zeros((40, 50), np.uint8)
    mask[0:10, 0:20] = 1
    mask[20:39, 30:50] = 1
    polygons = polygons_of(mask)
    assert len({len(polygon) for polygon in polygons}) == 2
    drawn = np.zeros_like(mask)
    for polygon in polygons:
        points = np.array(polygon).reshape(-1, 2).round().astype(np.int32)
        cv2.fillPoly(drawn, [points], 1)
    assert (drawn & mask).sum() / (drawn | mask).sum() > 0.9
