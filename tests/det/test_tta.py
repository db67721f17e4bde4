"""Merging boxes and masks of several views: hand-made cases and a real detector."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest
import torch
from mmdet.models import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.mask import encode_mask_results
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from focal_mm.det import DetMaskTTAModel
from focal_mm.engine.test import main as run_test

HEIGHT, WIDTH = 40, 60
NMS = dict(type="nms", iou_threshold=0.5)
FLIPS = (None, "horizontal", "vertical", "diagonal")
AXES = dict(horizontal=[-1], vertical=[-2], diagonal=[-2, -1])


class Detector(nn.Module):
    """Stands for a detector: each view's prediction is its input."""

    def test_step(self, data: dict) -> list[DetDataSample]:
        return data["inputs"]


def model(nms: dict = NMS, max_per_img: int = 100, **options) -> DetMaskTTAModel:
    return DetMaskTTAModel(
        Detector(), tta_cfg=dict(nms=nms, max_per_img=max_per_img), **options
    )


def view(
    *found: tuple, flip: str | None = None, scale: float = 1.0, masks: bool = True
) -> DetDataSample:
    """A view of a 40 x 60 image.

    Args:
        found: (box, score, label, mask) as the unflipped image has them; the mask may
            be left out: the lower left half of the box.
        flip: Its direction.
        scale: Of the resizing.
        masks: Whether there are any.
    """
    boxes = torch.tensor([entry[0] for entry in found]).reshape(-1, 4).float()
    instances = InstanceData(
        bboxes=flipped_boxes(boxes, flip),
        scores=torch.tensor([entry[1] for entry in found]).float(),
        labels=torch.tensor([entry[2] for entry in found]).long(),
    )
    if masks:
        drawn = [entry[3] if len(entry) > 3 else half(entry[0]) for entry in found]
        empty = torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)
        stacked = torch.stack(drawn) if drawn else empty
        instances.masks = stacked.flip(AXES[flip]) if flip else stacked
    meta = dict(
        ori_shape=(HEIGHT, WIDTH),
        flip=flip is not None,
        flip_direction=flip,
        scale_factor=(scale, scale),
    )
    sample = DetDataSample(metainfo=meta)
    sample.pred_instances = instances
    return sample


def flipped_boxes(boxes: Tensor, flip: str | None) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    if flip in ("horizontal", "diagonal"):
        x1, x2 = WIDTH - x2, WIDTH - x1
    if flip in ("vertical", "diagonal"):
        y1, y2 = HEIGHT - y2, HEIGHT - y1
    return torch.stack([x1, y1, x2, y2], -1)


def half(box: Sequence[int]) -> Tensor:
    """The lower left half of a box: changed by every flip."""
    x1, y1, x2, y2 = box
    rows, columns = torch.arange(HEIGHT)[:, None], torch.arange(WIDTH)[None]
    inside = (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)
    return inside & ((columns - x1) * (y2 - y1) < (rows - y1) * (x2 - x1))


def filled(x1: int, y1: int, x2: int, y2: int) -> Tensor:
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    return mask


def assert_same(got: InstanceData, wanted: InstanceData) -> None:
    assert set(got.keys()) == set(wanted.keys())
    for key, value in wanted.items():
        assert got[key].dtype == value.dtype
        torch.testing.assert_close(got[key], value, rtol=0, atol=1e-5, msg=key)


SCENE = (
    ([4, 6, 24, 30], 0.9, 1),
    ([30, 2, 58, 20], 0.8, 0),
    # The same place as the first, another class.
    ([4, 6, 24, 30], 0.7, 0),
    # Overlaps the second too little to be suppressed.
    ([30, 12, 58, 34], 0.6, 0),
)


@pytest.mark.parametrize(
    "nms", [NMS, dict(type="soft_nms", iou_threshold=0.5)], ids=["nms", "soft_nms"]
)
def test_same_image_scaled_and_flipped_gives_the_single_result(nms):
    single = view(*SCENE)
    views = [view(*SCENE, flip=f, scale=s) for s, f in product((1.0, 2.0), FLIPS)]
    (merged,) = model(nms).merge_preds([views])
    assert_same(merged.pred_instances, single.pred_instances)


def test_masks_are_the_mean_weighted_by_score():
    box = [10, 10, 30, 30]
    left, right = filled(10, 10, 20, 30), filled(20, 10, 30, 30)
    views = [view((box, 0.9, 0, left)), view((box, 0.5, 0, right))]
    views += [view((box, 0.6, 0, right), flip="horizontal")]
    (merged,) = model().merge_preds([views])
    # Left has 0.9 of 2.0, right 1.1.
    assert torch.equal(merged.pred_instances.masks, right[None])
    assert merged.pred_instances.scores.tolist() == pytest.approx([0.9])

    views = [view((box, 0.9, 0, left)), view((box, 0.5, 0, right))]
    (merged,) = model(mask_threshold=0.3).merge_preds([views])
    assert torch.equal(merged.pred_instances.masks, (left | right)[None])


def test_who_votes():
    """One prediction a view, the nearest of the label, if it overlaps enough."""
    box, shifted, far = [10, 10, 30, 30], [11, 10, 31, 30], [20, 10, 40, 30]
    left, right = filled(10, 10, 20, 30), filled(20, 10, 30, 30)
    views = [
        view((box, 0.5, 0, left)),
        view((box, 0.4, 0, left), (shifted, 0.4, 0, right)),
        view((far, 0.45, 0, right)),
        view((box, 0.45, 1, right)),
        view(),
    ]
    (merged,) = model().merge_preds([views])
    found = merged.pred_instances
    assert found.labels.tolist() == [0, 0, 1]
    assert found.bboxes.tolist() == [box, far, box]
    assert torch.equal(found.masks, torch.stack([left, right, right]))


def test_a_view_that_sees_nothing_does_not_matter():
    for views in ([view(), view(*SCENE)], [view(*SCENE), view(flip="vertical")]):
        (merged,) = model().merge_preds([views])
        assert_same(merged.pred_instances, view(*SCENE).pred_instances)


def test_nothing_found_at_all():
    (merged,) = model().merge_preds([[view(), view(flip="horizontal")]])
    assert_same(merged.pred_instances, view().pred_instances)
    assert merged.pred_instances.masks.shape == (0, HEIGHT, WIDTH)


def test_a_box_without_area_keeps_its_mask():
    mask = filled(3, 3, 4, 9)
    (merged,) = model().merge_preds([[view(([3, 3, 3, 9], 0.5, 0, mask))]])
    assert torch.equal(merged.pred_instances.masks, mask[None])


def test_no_more_than_max_per_img():
    (merged,) = model(max_per_img=2).merge_preds([[view(*SCENE)] * 2])
    assert_same(merged.pred_instances, view(*SCENE[:2]).pred_instances)


def test_boxes_alone_are_what_mmdet_makes_of_them():
    def views() -> list[DetDataSample]:
        generator = torch.Generator().manual_seed(0)
        made = []
        for flip in FLIPS:
            corners = torch.rand(30, 4, generator=generator) * 20
            corners[:, 2:] += corners[:, :2] + 1
            scores = torch.rand(30, generator=generator)
            found = zip(corners.tolist(), scores.tolist(), [0, 1] * 15, strict=True)
            made.append(view(*found, flip=flip, masks=False))
        return made

    ours = model()
    theirs = DetTTAModel(tta_cfg=ours.tta_cfg, module=Detector())
    (got,), (wanted,) = ours.merge_preds([views()]), theirs.merge_preds([views()])
    assert 0 < len(got.pred_instances) < 120
    assert_same(got.pred_instances, wanted.pred_instances)


def test_run_length_codes():
    views = [view(*SCENE), view(*SCENE, flip="horizontal")]
    for sample in views:
        masks = sample.pred_instances.pop("masks")
        sample.pred_instances.masks = encode_mask_results(masks.numpy())
    (merged,) = model().merge_preds([views])
    assert_same(merged.pred_instances, view(*SCENE).pred_instances)


def test_sizes_taken_from_each_scale():
    """20 x 24 pixels are a size of 21.9; 28 x 18 of 22.4 at scale 1."""
    views = [
        view(*SCENE[:2], scale=s, flip=f) for s in (1, 2) for f in (None, "vertical")
    ]
    ranges = [(22, 100), (0, 44)]
    (merged,) = model(size_ranges=ranges).merge_preds([views])
    assert_same(merged.pred_instances, view(*SCENE[:2]).pred_instances)
    for ranges, kept in ([(22, 100)] * 2, [0, 1]), ([(0, 22), (0, 40)], [0]):
        views = [view(*SCENE[:2], scale=s) for s in (1, 2)]
        (merged,) = model(size_ranges=ranges).merge_preds([views])
        wanted = view(*[SCENE[index] for index in kept])
        assert_same(merged.pred_instances, wanted.pred_instances)
    with pytest.raises(ValueError, match="3 views"):
        model(size_ranges=ranges).merge_preds([[view()] * 3])


def test_predictions_that_cannot_be_merged():
    soft = view(*SCENE)
    soft.pred_instances.masks = soft.pred_instances.masks.to(torch.uint8)
    with pytest.raises(TypeError, match="uint8"):
        model().merge_preds([[soft]])
    resized = view(*SCENE)
    resized.set_metainfo(dict(ori_shape=(20, 30)))
    with pytest.raises(ValueError, match="must be rescaled"):
        model().merge_preds([[resized]])
    scored = view(*SCENE)
    scored.pred_instances.mask_scores = scored.pred_instances.scores
    with pytest.raises(ValueError, match="mask_scores"):
        model().merge_preds([[scored]])


def test_only_codes_are_kept_while_views_are_predicted():
    kept = []

    class Watched(Detector):
        def test_step(self, data: dict) -> list[DetDataSample]:
            kept.extend(type(s.pred_instances.masks) for s in self.seen)
            self.seen = data["inputs"]
            return data["inputs"]

    watched = Watched()
    watched.seen = []
    merger = DetMaskTTAModel(watched, tta_cfg=dict(nms=NMS, max_per_img=100))
    views = [[view(*SCENE), view(*SCENE[:1])] for _ in range(3)]
    merged = merger.test_step(dict(inputs=views, data_samples=views))
    assert kept == [list] * 4
    assert [len(sample.pred_instances) for sample in merged] == [4, 1]


def test_identity_gives_exactly_what_a_mask_rcnn_predicts(toy_model):
    toy = toy_model("mmdet")
    cfg = Config.fromfile(toy.config)
    cfg.model.test_cfg.rcnn.update(score_thr=0.0, max_per_img=50)
    init_default_scope("mmdet")
    detector = MODELS.build(cfg.model)
    detector.init_weights()
    detector.eval()
    image = torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (3, 96, 128), dtype=np.uint8)
    )
    meta = dict(
        ori_shape=(48, 64),
        img_shape=(96, 128),
        scale_factor=(2.0, 2.0),
        flip=False,
        flip_direction=None,
    )

    def batch() -> dict:
        return dict(inputs=[image], data_samples=[DetDataSample(metainfo=meta)])

    tta_cfg = dict(nms=detector.roi_head.test_cfg.nms, max_per_img=50)
    merger = DetMaskTTAModel(detector, tta_cfg)
    with torch.no_grad():
        (plain,) = detector.test_step(batch())
        (merged,) = merger.test_step({key: [val] for key, val in batch().items()})
    got, wanted = merged.pred_instances, plain.pred_instances
    assert len(wanted) > 10
    assert wanted.masks.any()
    for key in ("bboxes", "scores", "labels", "masks"):
        assert torch.equal(got[key], wanted[key]), key


MULTI_SCALE = """
_base_ = {base!r}
test_evaluator = dict(ann_file={ann_file!r})
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [dict(type="Resize", scale=(96 * s, 64 * s)) for s in (1, 2)],
            [dict(type="RandomFlip", prob=p) for p in (0.0, 1.0)],
            [
                dict(
                    type="PackDetInputs",
                    meta_keys=("img_id", "img_path", "ori_shape", "img_shape")
                    + ("scale_factor", "flip", "flip_direction"),
                )
            ],
        ],
    ),
]
"""


def test_two_scales_and_flips_through_the_command_line(toy_model, tmp_path):
    toy = toy_model("mmdet")
    config, dumped = tmp_path / "multi_scale.py", tmp_path / "predictions.pkl"
    ann_file = str(toy.images.parent / "coco.json")
    config.write_text(MULTI_SCALE.format(base=str(toy.config), ann_file=ann_file))
    options = ["--tta", "--work-dir", str(tmp_path / "work"), "--out", str(dumped)]
    options += ["--show-dir", "drawn"]
    # A model trained for one step is sure of nothing.
    options += ["--cfg-options", "model.test_cfg.rcnn.score_thr=0.0"]
    assert run_test([str(config), str(toy.checkpoint), *options]) == 0

    predictions = pickle.loads(dumped.read_bytes())
    assert len(predictions) == 2
    for prediction in predictions:
        found = prediction["pred_instances"]
        # More than the five that the model finds in one view.
        assert 5 < len(found["masks"]) == len(found["bboxes"]) <= 20
        assert found["masks"][0]["size"] == [64, 96]
    assert len(list(tmp_path.glob("work/*/drawn/*.png"))) == 2
    (log,) = tmp_path.glob("work/2*/2*.json")
    assert "coco/segm_mAP" in json.loads(log.read_text())
