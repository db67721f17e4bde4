"""Every detection config builds, trains a step and infers.

A new config is tested by standing in the folder.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from pycocotools import mask as coco_mask
from torch import Tensor, nn

from demo.toy.formats import CocoSpec
from demo.toy.shapes import CLASSES, MIN_SIZE
from focal_mm.models.presets import parse_arch

DET = Path(__file__).parents[2] / "configs" / "det"
QUICK_BASELINES = {
    # Each kind of backbone once; the others differ in numbers.
    "retinanet_r50_1x",
    "mask_rcnn_x101_32x4d_1x",
    "retinanet_pvt_small_1x",
    "mask_rcnn_swin_tiny_1x",
    "mask_rcnn_swin_tiny_no_shift_1x",
}
ROWS = sorted([*DET.glob("*.py"), *DET.glob("ablations/*.py")])
ROWS += [
    pytest.param(path, marks=[pytest.mark.slow] * (path.stem not in QUICK_BASELINES))
    for path in sorted(DET.glob("baselines/*.py"))
]
SIZE = 128
"""Pixels of an image's longer side after resizing."""


@pytest.fixture(scope="module")
def toy_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Toy images, with what HTC++ needs: polygons, as COCO has, and maps of stuff."""
    root = tmp_path_factory.mktemp("rows") / "coco"
    CocoSpec(num_train=2, num_val=1, size=MIN_SIZE).write(root)
    path = root / "annotations" / "instances_train2017.json"
    contents = json.loads(path.read_text())
    for annotation in contents["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        annotation["segmentation"] = [outline.ravel().tolist() for outline in outlines]
    path.write_text(json.dumps(contents))
    stuff = root / "stuffthingmaps" / "train2017"
    stuff.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for image in contents["images"]:
        regions = rng.integers(0, 183, (4, 4), dtype=np.uint8)
        regions = regions.repeat(MIN_SIZE // 4, 0).repeat(MIN_SIZE // 4, 1)
        cv2.imwrite(str((stuff / image["file_name"]).with_suffix(".png")), regions)
    return root


def shrink_sizes(node: Any) -> None:
    """Image sizes of a pipeline's steps, in place: at most SIZE pixels."""
    if isinstance(node, dict):
        for key in ("scale", "scales", "crop_size"):
            if key in node:
                node[key] = smaller(node[key])
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            shrink_sizes(child)


def smaller(size: Any) -> Any:
    if isinstance(size, (list, tuple)):
        return type(size)(smaller(side) for side in size)
    return min(size, SIZE)


def load(path: Path, data_root: Path) -> Config:
    """A row with its own pipeline, on the toy data and at their size."""
    config = Config.fromfile(path)
    for split in ("train", "val", "test"):
        dataset = config[f"{split}_dataloader"].dataset
        shrink_sizes(dataset.pipeline)
        dataset.update(data_root=f"{data_root}/", metainfo=dict(classes=CLASSES))
    if "focal_large" in path.stem:
        # One block a stage: training the whole model needs gigabytes.
        arch = parse_arch(config.model.backbone.arch)
        config.model.backbone.arch = arch._replace(depths=(1, 1, 1, 1))._asdict()
        assert config.optim_wrapper.type == "AmpOptimWrapper"
        config.optim_wrapper.type = "OptimWrapper"
    take_fewer_regions(config.model.train_cfg, config.model.test_cfg)
    return config


def take_fewer_regions(train_cfg: dict, test_cfg: dict) -> None:
    """What decides the time of a two-stage detector at this size."""
    stages = train_cfg.get("rcnn") or []
    for stage in stages if isinstance(stages, list) else [stages]:
        if stage.sampler.type == "RandomSampler":
            stage.sampler.num = 32
    if test_cfg.get("rpn"):
        test_cfg.rpn.max_per_img = 50
        train_cfg.rpn_proposal.max_per_img = 100
    # Untrained models score nothing high.
    (test_cfg.get("rcnn") or test_cfg)["score_thr"] = 0.0


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_row(
    path: Path, toy_coco: Path, train_a_step: Callable[[nn.Module, Config], None]
) -> None:
    init_default_scope("mmdet")
    config = load(path, toy_coco)
    model = MODELS.build(config.model)
    model.init_weights()
    model = revert_sync_batchnorm(model)
    train_a_step(model, config)
    infer(model, config)


@pytest.mark.parametrize(
    ("name", "shares", "drop_path", "optimizer"),
    [
        # Of one size, of several, of crops: configs/det/README.md says which and why.
        ("retinanet_r50_1x", [1, 0, 0], None, (1e-4, 0.05)),
        ("mask_rcnn_x101_64x4d_3x", [0, 1, 0], None, (1e-4, 0.05)),
        ("atss_r50_3x", [0, 0.5, 0.5], None, (1e-4, 0.05)),
        ("sparse_rcnn_r50_3x", [0, 0.5, 0.5], None, (2.5e-5, 1e-4)),
        ("retinanet_pvt_large_1x", [1, 0, 0], None, (1e-4, 1e-4)),
        ("mask_rcnn_pvt_large_1x", [1, 0, 0], None, (2e-4, 1e-4)),
        ("retinanet_swin_tiny_1x", [1, 0, 0], 0.2, (1e-4, 0.05)),
        ("retinanet_swin_base_3x", [0, 1, 0], 0.5, (1e-4, 0.05)),
        ("mask_rcnn_swin_tiny_1x", [0, 0.5, 0.5], 0.1, (1e-4, 0.05)),
        ("mask_rcnn_swin_tiny_3x", [0, 0.5, 0.5], 0.2, (1e-4, 0.05)),
        ("mask_rcnn_swin_small_3x", [0, 0.5, 0.5], 0.2, (1e-4, 0.05)),
        ("mask_rcnn_swin_base_1x", [0, 0.5, 0.5], 0.3, (1e-4, 0.05)),
        ("mask_rcnn_swin_tiny_no_shift_1x", [0, 0.5, 0.5], 0.1, (1e-4, 0.05)),
        ("cascade_mask_rcnn_swin_tiny_3x", [0, 0.5, 0.5], 0.2, (1e-4, 0.05)),
    ],
)
def test_recipe_of_baselines(
    name: str,
    shares: list[float],
    drop_path: float | None,
    optimizer: tuple[float, float],
) -> None:
    config = Config.fromfile(DET / "baselines" / f"{name}.py")
    resize = config.train_dataloader.dataset.pipeline[2]
    assert (resize.type, resize.prob) == ("RandomChoice", shares)
    assert config.model.backbone.get("drop_path_rate") == drop_path
    adamw = config.optim_wrapper.optimizer
    assert (adamw.type, adamw.lr, adamw.weight_decay) == ("AdamW", *optimizer)
    assert config.train_cfg.max_epochs == (12 if name.endswith("1x") else 36)


@pytest.mark.parametrize("name", ["retinanet_pvt_small_3x", "mask_rcnn_pvt_large_3x"])
def test_image_sizes_of_pvt_with_3x(name: str) -> None:
    config = Config.fromfile(DET / "baselines" / f"{name}.py")
    resize = config.train_dataloader.dataset.pipeline[2]
    assert (resize.type, resize.scale) == ("RandomResize", [(1333, 640), (1333, 800)])


def infer(model: nn.Module, config: Config) -> None:
    dataset = DATASETS.build(config.test_dataloader.dataset)
    model.eval()
    with torch.no_grad():
        (result,) = model.test_step(pseudo_collate([dataset[0]]))
    height, width = result.ori_shape
    found = result.pred_instances
    assert 0 < len(found) <= 300
    assert found.scores.isfinite().all()
    assert (found.scores >= 0).all()
    assert (found.scores <= 1).all()
    assert ((found.labels >= 0) & (found.labels < 80)).all()
    assert_inside(found.bboxes, width, height)
    has_masks = "mask_head" in (config.model.get("roi_head") or {})
    assert ("masks" in found) == has_masks
    if has_masks:
        assert found.masks.shape == (len(found), height, width)
        assert found.masks.dtype == torch.bool


def assert_inside(boxes: Tensor, width: int, height: int) -> None:
    limits = boxes.new_tensor([width, height, width, height])
    assert boxes.isfinite().all()
    assert (boxes >= 0).all()
    assert (boxes <= limits + 1e-3).all()
    assert (boxes[:, :2] <= boxes[:, 2:]).all()
