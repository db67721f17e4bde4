"""InstaBoost, with its package, as HTC++ trains with it."""

from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import TRANSFORMS, init_default_scope

CONFIG = Path(__file__).parents[2] / "configs/det/htc_plusplus_focal_large_3x.py"


def test_instaboost_moves_instances_with_their_annotations():
    pytest.importorskip(
        "instaboostfast", reason="needs the extra: pip install 'focal_mm[instaboost]'"
    )
    cfg = Config.fromfile(CONFIG, import_custom_modules=False)
    init_default_scope("mmdet")
    _, instaboost, annotations = cfg.train_dataloader.dataset.pipeline[:3]
    instaboost.update(aug_ratio=1.0, color_prob=0.0)
    annotations.update(with_seg=False)
    # A white square on black, which the transform cannot tell from another instance.
    image = np.zeros((120, 160, 3), np.uint8)
    image[30:70, 40:90] = 255
    square = [40.0, 30.0, 90.0, 30.0, 90.0, 70.0, 40.0, 70.0]
    np.random.seed(0)
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
        for transform in (instaboost, annotations):
            found = TRANSFORMS.build(transform)(found)
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
