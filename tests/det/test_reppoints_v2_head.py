"""The detector at toy size: losses of all kinds of images, boxes, inference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.apis import DetInferencer
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks, PolygonMasks
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.structures import InstanceData
from torch import Tensor, nn

from focal_mm.det.reppoints_v2.targets import corner_targets

CONFIG = Path(__file__).parents[2] / "configs/det/reppointsv2_focal_tiny_3x.py"
WIDTH = 32
STRIDES = [8, 16, 32, 64, 128]
SIZES = [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
"""Of the levels of an image of 128 x 192."""

Image = tuple[tuple[int, int], list[tuple[float, ...]]]
"""Height and width; boxes."""

BATCHES: dict[str, list[Image]] = {
    "no objects": [((96, 128), []), ((96, 128), [])],
    "one object": [((96, 128), [(10, 20, 70, 90)])],
    "one image without objects": [((64, 64), [(8, 8, 30, 40)]), ((64, 64), [])],
    "larger than the image": [((64, 96), [(-200, -100, 400, 300), (5, 5, 20, 20)])],
    "mixed sizes": [
        ((64, 200), [(100, 10, 190, 60)]),
        ((150, 40), [(0, 0, 40, 150), (3, 3, 9, 9)]),
        ((40, 50), []),
    ],
    "a box without an area": [((64, 64), [(20, 20, 20, 20)])],
}


@pytest.fixture(scope="module")
def config() -> Config:
    init_default_scope("mmdet")
    cfg = Config.fromfile(CONFIG)
    cfg.merge_from_dict(
        {
            "model.backbone.arch": dict(
                _delete_=True,
                embed_dims=16,
                depths=[1, 1, 1, 1],
                num_heads=[1, 2, 4, 8],
            ),
            "model.neck.in_channels": [32, 64, 128],
            "model.neck.out_channels": WIDTH,
            "model.bbox_head.in_channels": WIDTH,
            "model.bbox_head.feat_channels": WIDTH,
            "model.bbox_head.point_feat_channels": WIDTH,
            "model.bbox_head.corner_channels": WIDTH,
            "model.neck.norm_cfg.num_groups": 8,
            "model.bbox_head.norm_cfg.num_groups": 8,
        }
    )
    return cfg


@pytest.fixture(scope="module")
def detector(config: Config) -> nn.Module:
    torch.manual_seed(0)
    detector = MODELS.build(config.model)
    detector.init_weights()
    return detector


@pytest.fixture
def head(detector: nn.Module) -> nn.Module:
    return detector.bbox_head


def instances(boxes: list[tuple[float, ...]]) -> InstanceData:
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        labels=torch.arange(len(boxes)),
    )


def batch_of(images: list[Image]) -> dict:
    samples = []
    for size, boxes in images:
        meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0))
        samples.append(DetDataSample(gt_instances=instances(boxes), metainfo=meta))
    inputs = [torch.randint(256, (3, *size), dtype=torch.uint8) for size, _ in images]
    return dict(inputs=inputs, data_samples=samples)


def losses_of(detector: nn.Module, batch: dict) -> dict[str, Tensor]:
    detector.train()
    return detector(**detector.data_preprocessor(batch, True), mode="loss")


@pytest.mark.parametrize("name", BATCHES)
def test_losses_are_finite_and_train_everything(detector, name):
    losses = losses_of(detector, batch_of(BATCHES[name]))
    assert set(losses) == {
        "loss_cls",
        "loss_pts_init",
        "loss_pts_refine",
        "loss_heatmap",
        "loss_offset",
        "loss_foreground",
    }
    detector.zero_grad()
    sum(losses.values()).backward()
    for loss in losses.values():
        assert loss.ndim == 0
        assert loss.isfinite()
    for key, parameter in detector.named_parameters():
        # Processes of data-parallel training wait for every gradient.
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    if name == "one object":
        assert all(loss > 0 for loss in losses.values())


def test_first_two_points_are_the_corners(head):
    """The upper left one first, in whatever place it is; y comes first."""
    points = torch.randn(3, 18, 4, 5) * 9
    boxes = head.points2bbox(points)
    for channel, of_points in enumerate((1, 0, 3, 2)):
        assert torch.equal(boxes[:, channel], points[:, of_points])
    assert torch.equal(head.points2bbox(boxes, y_first=False), boxes)


def test_what_an_untrained_head_says(config):
    head = MODELS.build(config.model).bbox_head
    head.init_weights()
    head.train()
    scores, points, _, corners, _, foreground = head.forward_single(
        torch.randn(1, WIDTH, 6, 6)
    )
    # All points stand where they belong to.
    assert points.abs().max() < 0.5
    # Objects, corners and foreground are rare: a prior of 0.01.
    for logits in (scores, corners, foreground):
        assert logits.sigmoid().mean().item() == pytest.approx(0.01, rel=0.5)


@pytest.mark.parametrize("taught_by", [0, 2], ids=["classes", "refinement"])
def test_what_is_verified_is_taught_by_what_uses_it(head, taught_by):
    head.train()
    head.zero_grad()
    head.forward_single(torch.randn(1, WIDTH, 6, 6))[taught_by].sum().backward()
    for corner in head.corner_branch.corners:
        for output in (corner.score, corner.offset):
            assert output.weight.grad.any()
    assert head.foreground_branch.embedding.conv.weight.grad.any()


def test_bfloat16(detector):
    batch = batch_of([((64, 64), [(8, 8, 56, 56)])])
    with torch.autocast("cpu", torch.bfloat16):
        losses = losses_of(detector, batch)
    for loss in losses.values():
        assert loss.dtype == torch.float32
        assert loss.isfinite()


BOX = (36.0, 20.0, 130.0, 99.0)


def perfect_outputs() -> tuple[list[Tensor], ...]:
    """What the head would have to say in training about an image with ``BOX``.

    In order: points, logits and offsets of corners, logits of the foreground.
    """
    box = torch.tensor([BOX])
    points, scores, offsets, foreground = [], [], [], []
    finest = torch.zeros(1, *SIZES[0])
    finest[0, 2:13, 4:17] = 1
    for size, stride in zip(SIZES, STRIDES, strict=True):
        x = torch.arange(size[1]) * stride
        y = torch.arange(size[0])[:, None] * stride
        level = torch.zeros(1, 18, *size)
        for channel, (side, axis) in enumerate(
            [(BOX[1], y), (BOX[0], x), (BOX[3], y), (BOX[2], x)]
        ):
            level[0, channel] = (side - axis) / stride
        points.append(level)
        corners = corner_targets(box, size, size, stride)
        scores.append(corners.heatmap[None].clamp(1e-6, 1 - 1e-6).logit())
        offsets.append(corners.offsets[None])
        logits = torch.full((1, 80, *size), -20.0)
        logits[0, 0] = finest[0, :: stride // 8, :: stride // 8] * 40 - 20
        foreground.append(logits)
    return points, scores, offsets, foreground


def loss_of_outputs(head: nn.Module, *outputs: list[Tensor]) -> dict[str, Tensor]:
    meta = dict(pad_shape=(128, 192), img_shape=(128, 192))
    return head.loss_by_feat(*outputs, [instances([BOX])], [meta])


def test_the_truth_costs_nothing(head):
    """But for the classification, of which nothing is said here."""
    points, *verified = perfect_outputs()
    background = [torch.full((1, 80, *size), -20.0) for size in SIZES]
    losses = loss_of_outputs(head, background, points, points, *verified)
    for name in ("loss_pts_init", "loss_pts_refine", "loss_offset"):
        assert losses[name].item() == pytest.approx(0, abs=1e-5), name
    # Beside a corner the target is neither 0 nor 1.
    assert losses["loss_heatmap"] < 0.05
    assert losses["loss_foreground"] < 1e-5
    # Nine boxes of the same overlap on each level, or as many as there are.
    assert losses["loss_cls"] > 10


def test_empty_boxes_learn(head):
    """Boxes are compared in units of 4 strides, with their last unit."""
    points, *verified = perfect_outputs()
    empty = [torch.zeros_like(level).requires_grad_() for level in points]
    background = [torch.full((1, 80, *size), -20.0) for size in SIZES]
    loss = loss_of_outputs(head, background, empty, points, *verified)["loss_pts_init"]
    # Of an area of 1 within the object's: the box of P4, whose unit is 64.
    width, height = (BOX[2] - BOX[0]) / 64 + 1, (BOX[3] - BOX[1]) / 64 + 1
    assert loss.item() == pytest.approx(1 - 1 / (width * height))
    loss.backward()
    assert [level.grad.any() for level in empty] == [False, True, False, False, False]
    # Both corners, each along both axes.
    gradient = empty[1].grad[0, :4].sum((1, 2))
    assert (gradient.sign() == torch.tensor([1, 1, -1, -1])).all()


@pytest.mark.parametrize("wrong", range(5))
def test_each_output_has_its_loss(head, wrong):
    names = ("pts_init", "pts_refine", "heatmap", "offset", "foreground")
    points, *verified = perfect_outputs()
    outputs = [points, points, *verified]
    background = [torch.full((1, 80, *size), -20.0) for size in SIZES]
    before = loss_of_outputs(head, background, *outputs)
    outputs[wrong] = [level / 8 for level in outputs[wrong]]
    after = loss_of_outputs(head, background, *outputs)
    assert after[f"loss_{names[wrong]}"] > before[f"loss_{names[wrong]}"] + 1e-7
    for other in set(names) - {names[wrong]}:
        # The refined boxes are chosen among the first ones, all alike before.
        if (names[wrong], other) != ("pts_init", "pts_refine"):
            assert after[f"loss_{other}"] == before[f"loss_{other}"]


def foreground_loss(head: nn.Module, gt: InstanceData, logits: list[Tensor]) -> float:
    points, scores, offsets, _ = perfect_outputs()
    background = [torch.full((1, 80, *size), -20.0) for size in SIZES]
    outputs = (background, points, points, scores, offsets, logits)
    meta = dict(pad_shape=(128, 192), img_shape=(128, 192))
    return head.loss_by_feat(*outputs, [gt], [meta])["loss_foreground"].item()


def test_normalised_focal_loss(head):
    """Positives weigh 1 on average; all sums are over the number of positives."""
    *_, foreground = perfect_outputs()
    cells = sum((level > 0).sum() for level in foreground)
    others = sum(level.numel() for level in foreground) - cells
    undecided = [torch.zeros_like(level) for level in foreground]
    # Of a logit 0: (1/2)^2 log 2.
    expected = 0.1 * 0.25 * np.log(2) * (0.25 * cells + 0.75 * others) / cells
    loss = foreground_loss(head, instances([BOX]), undecided)
    assert loss == pytest.approx(expected.item(), rel=1e-4)


def test_objects_of_any_size_count_alike_in_the_foreground(head):
    """One of 4 x 4 and one of 8 x 8 cells."""
    gt = instances([(8, 8, 39.9, 39.9), (64, 0, 127.9, 63.9)])
    finest = torch.full((80, *SIZES[0]), -20.0)
    finest[0, 1:5, 1:5] = finest[1, 0:8, 8:16] = 20
    losses = []
    for missed in (0, 1):
        said = finest.clone()
        said[missed] = -20
        steps = [stride // 8 for stride in STRIDES]
        logits = [said[None, :, ::step, ::step] for step in steps]
        losses.append(foreground_loss(head, gt, logits))
    assert losses[0] > 0.1
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


@pytest.mark.parametrize("kind", ["bitmap", "polygon"])
def test_masks_teach_the_foreground_where_there_are_any(head, kind):
    """The right half of the box."""
    left, (x2, y1, y2) = 80, (BOX[2], BOX[1], BOX[3])
    polygon = np.array([left, y1, x2, y1, x2, y2, left, y2])
    masks = PolygonMasks([[polygon]], 128, 192)
    if kind == "bitmap":
        masks = BitmapMasks(masks.to_ndarray(), 128, 192)
    gt = instances([BOX])
    *_, of_box = perfect_outputs()
    of_mask = [level.clone() for level in of_box]
    for level, stride in zip(of_mask, STRIDES, strict=True):
        level[:, :, :, : -(-left // stride)] = -20
    assert foreground_loss(head, gt, of_box) < 1e-5
    assert foreground_loss(head, gt, of_mask) > 0.1
    gt.masks = masks
    assert foreground_loss(head, gt, of_mask) < 1e-5
    assert foreground_loss(head, gt, of_box) > 0.1


def test_padding_teaches_nothing(head):
    """But the foreground: that nothing is there."""
    outputs = [torch.randn(1, 80, *size) for size in SIZES], *perfect_outputs()
    scores, points, corners, offsets, foreground = outputs
    meta = dict(pad_shape=(128, 160), img_shape=(120, 150))

    def losses() -> dict[str, Tensor]:
        return head.loss_by_feat(
            scores,
            points,
            points,
            corners,
            offsets,
            foreground,
            [instances([BOX])],
            [meta],
        )

    before = losses()
    for level, stride in zip(zip(*outputs[:4], strict=True), STRIDES, strict=True):
        for output in level:
            output[..., -(-160 // stride) :] += 30
    after = losses()
    for name in before:
        assert before[name] == after[name], name


def test_scores_are_taught_the_overlap(head):
    """Quality focal loss: a refined box of IoU 1/2 wants a score of 1/2."""
    points, *verified = perfect_outputs()
    narrow = [level.clone() for level in points]
    for level, stride in zip(narrow, STRIDES, strict=True):
        level[0, 3] -= (BOX[2] - BOX[0]) / 2 / stride
    losses = {}
    for logit in (-2.0, 0.0, 2.0):
        scores = [torch.full((1, 80, *size), -20.0) for size in SIZES]
        for level in scores:
            level[0, 0] = logit
        losses[logit] = loss_of_outputs(head, scores, points, narrow, *verified)
    # Only the positives, which are assigned by the first boxes, can want a score.
    positive = {key: loss["loss_cls"].item() for key, loss in losses.items()}
    wanted = [torch.full((1, 80, *size), -20.0) for size in SIZES]
    nothing = loss_of_outputs(head, wanted, points, narrow, *verified)["loss_cls"]
    assert positive[0.0] < nothing
    exact = loss_of_outputs(head, wanted, points, points, *verified)["loss_cls"]
    # |1 - 0|^2 against |1/2 - 0|^2, and twice the cross-entropy: eight times.
    assert (exact / nothing).item() == pytest.approx(8, rel=1e-3)


def predict(head: nn.Module, score: float, **options: bool) -> InstanceData:
    """One box on P4, and corners of P3 next to it with peaks."""
    scores = [torch.full((1, 80, *size), -20.0) for size in SIZES]
    boxes = [torch.zeros(1, 4, *size) for size in SIZES]
    corners = [torch.full((1, 2, *size), -9.0) for size in SIZES]
    offsets = [torch.zeros(1, 4, *size) for size in SIZES]
    scores[1][0, 7, 3, 5] = 5
    # The point is (80, 48); its box (61, 23, 122, 87).
    boxes[1][0, :, 3, 5] = torch.tensor([-19.0, -25, 42, 39]) / 16
    corners[0][0, 0, 3, 7] = corners[0][0, 1, 11, 16] = score
    offsets[0][0, :2, 3, 7] = torch.tensor([0.5, 0.25])
    offsets[0][0, 2:, 11, 16] = torch.tensor([-0.5, 0.0])
    meta = dict(img_shape=(128, 192), scale_factor=(2.0, 2.0))
    cfg = Config({**head.test_cfg, **options})
    (result,) = head.predict_by_feat(
        scores, boxes, corners, offsets, [meta], cfg=cfg, rescale=True
    )
    return result


def test_joint_inference_moves_a_detection_to_planted_corners(head):
    result = predict(head, 3.0)
    assert result.labels.tolist() == [7]
    expected = torch.tensor([[60.0, 26, 124, 88]]) / 2
    torch.testing.assert_close(result.bboxes, expected)
    result = predict(head, 3.0, joint_inference=False)
    expected = torch.tensor([[61.0, 23, 122, 87]]) / 2
    torch.testing.assert_close(result.bboxes, expected)


def test_corners_off_the_image_come_back_before_they_move(head):
    """Not to the padding, where no corner was ever taught."""
    boxes = [torch.full((1, 4, *size), 99.0) for size in SIZES]
    corners = [torch.zeros(1, 2, *size) for size in SIZES]
    corners[0][..., 19:] = 5
    offsets = [torch.zeros(1, 4, *size) for size in SIZES]
    refined = head._joint_inference(boxes, corners, offsets, [(100, 145)])
    points = torch.arange(SIZES[1][1]) * 16.0
    x2 = refined[1][0, 2] * 16 + points
    # The points around 145 are 144 and 152; the latter scores higher.
    assert (x2 == 152).all()


def test_levels_are_refined_by_finer_ones(head):
    """P3 by none, P4 and P5 by P3, P6 and P7 by P4."""
    boxes = [torch.zeros(1, 4, *size) for size in SIZES]
    corners = [torch.zeros(1, 2, *size) for size in SIZES]
    # An offset that tells the level it is of.
    offsets = [
        torch.full((1, 4, *size), 0.01 * 8 / s)
        for size, s in zip(SIZES, STRIDES, strict=True)
    ]
    for level, offset in enumerate(offsets):
        offset *= 10**level
    refined = head._joint_inference(boxes, corners, offsets, [(128, 192)])
    for level, shift in enumerate([0.0, 0.08, 0.08, 0.8, 0.8]):
        moved = refined[level] * STRIDES[level]
        torch.testing.assert_close(moved, torch.full_like(moved, shift))


@pytest.mark.parametrize("option", ["transform_method", "use_grid_points"])
def test_other_ways_to_boxes_are_refused(config, option):
    head = {**config.model.bbox_head, option: "minmax"}
    with pytest.raises(TypeError, match=f"multiple values for .*{option}"):
        MODELS.build(head)


def test_det_inferencer(config, tmp_path):
    cfg = Config.fromfile(CONFIG)
    cfg.model = config.model.copy()
    # Random weights find nothing with a score of 0.05.
    cfg.model.test_cfg.score_thr = 0.0
    cfg.dump(tmp_path / "toy.py")
    with pytest.warns(UserWarning, match="Checkpoint is not loaded"):
        inferencer = DetInferencer(str(tmp_path / "toy.py"), device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8)
    # The test pipeline enlarges images to 800 pixels.
    (step,) = (t for t in inferencer.pipeline.transforms if hasattr(t, "scale"))
    step.scale = (160, 96)
    (prediction,) = inferencer(image, no_save_vis=True)["predictions"]
    boxes = np.array(prediction["bboxes"])
    assert len(boxes) == 100
    assert (boxes >= 0).all()
    assert (boxes <= [90, 60, 90, 60]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
