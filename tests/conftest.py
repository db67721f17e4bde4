"""Shared by all tests."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from torch import Tensor

from focal_mm import FocalTransformer

# The tensors of tests are small: more threads than one only wait for each other.
torch.set_num_threads(1)

# Shells start what they put into the background deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def relative_error() -> Callable[[Tensor, Tensor], float]:
    """Largest difference over the reference's largest value; NaN is infinite."""

    def error(got: Tensor, reference: Tensor) -> float:
        assert got.shape == reference.shape
        largest = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        value = ((got - reference).abs().max() / largest).item()
        return value if value == value else float("inf")

    return error


@pytest.fixture
def small_backbone() -> Callable[..., FocalTransformer]:
    """Builds a backbone of four small stages; arguments as the class takes them."""

    def build(**overrides: object) -> FocalTransformer:
        args = dict(
            arch=dict(embed_dims=16, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8)),
            drop_path_rate=0.0,
        )
        return FocalTransformer(**{**args, **overrides})

    return build


@pytest.fixture(scope="session")
def conformance_dir() -> Path:
    """Folder with the released models' inputs, weights, outputs and gradients."""
    folder = Path(
        os.environ.get("FOCAL_MM_CONFORMANCE", ROOT.parent / "shared/conformance")
    )
    if not (folder / "index.json").is_file():
        pytest.skip(
            f"no conformance data in {folder} (set FOCAL_MM_CONFORMANCE to its folder)"
        )
    return folder


@dataclass(frozen=True)
class ToyModel:
    """A small model of a task library that a runner has trained for one step.

    Attributes:
        config: Its config file.
        checkpoint: As the runner left it.
        classes: Names of what it predicts.
        images: A folder of two PNG images of 96 x 64 pixels.
    """

    config: Path
    checkpoint: Path
    classes: tuple[str, ...]
    images: Path


_TOY_TRAINING = """
custom_imports = dict(imports=["focal_mm", "focal_mm.engine.hooks"])
default_scope = {scope!r}
small_arch = dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
train_cfg = dict(type="IterBasedTrainLoop", max_iters=1)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", by_epoch=False, save_best=None)
)
param_scheduler = None
log_processor = dict(by_epoch=False, window_size=1)
randomness = dict(seed=0)
metainfo = dict(classes={classes!r})
loader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=False),
)
"""
_TOY_SEGMENTOR = """
norm_cfg = dict(type="SyncBN")
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", size=(64, 96), bgr_to_rgb=True),
    backbone=dict(type="FocalTransformer", arch=small_arch, out_indices=(0, 1, 2, 3)),
    decode_head=dict(
        type="UPerHead",
        in_channels=[16, 32, 64, 128],
        in_index=[0, 1, 2, 3],
        channels=16,
        num_classes={number},
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    test_cfg=dict(mode="whole"),
)
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
dataset = dict(
    type="BaseSegDataset",
    data_root={root!r},
    data_prefix=dict(img_path="images", seg_map_path="labels"),
    img_suffix=".png",
    metainfo=metainfo,
    pipeline=test_pipeline,
)
train_dataloader = dict(dataset=dataset, **loader)
test_dataloader = dict(dataset=dataset, **loader)
visualizer = dict(type="SegLocalVisualizer")
"""
_TOY_CLASSIFIER = """
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(to_rgb=True),
    backbone=dict(type="FocalTransformer", arch=small_arch, out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        in_channels=128,
        num_classes={number},
        loss=dict(type="CrossEntropyLoss"),
    ),
)
dataset = dict(
    type="CustomDataset",
    data_root={root!r},
    data_prefix="images",
    ann_file="classes.txt",
    metainfo=metainfo,
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=(64, 64)),
        dict(type="PackInputs"),
    ],
)
loader.update(collate_fn=dict(type="default_collate"))
train_dataloader = dict(dataset=dataset, **loader)
test_dataloader = dict(dataset=dataset, **loader)
"""
_TOY_DETECTOR = """
_base_ = {base!r}
model = dict(
    backbone=dict(arch=dict(_delete_=True, **small_arch)),
    neck=dict(in_channels=[16, 32, 64, 128], out_channels=32),
    rpn_head=dict(in_channels=32, feat_channels=32),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=32),
        mask_roi_extractor=dict(out_channels=32),
        bbox_head=dict(in_channels=32, fc_out_channels=32, num_classes={number}),
        mask_head=dict(in_channels=32, conv_out_channels=32, num_classes={number}),
    ),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(max_per_img=5)),
)
dataset = dict(
    data_root={root!r},
    ann_file="coco.json",
    data_prefix=dict(img="images/"),
    metainfo=metainfo,
    pipeline=[
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
        dict(type="Resize", scale=(96, 64)),
        dict(type="PackDetInputs"),
    ],
)
train_cfg["_delete_"] = True
loader.update(persistent_workers=False, batch_sampler=None)
train_dataloader = dict(dataset=dataset, **loader)
test_dataloader = dict(dataset=dataset, num_workers=0, persistent_workers=False)
val_cfg = val_dataloader = val_evaluator = None
"""
_TOY_MODELS = dict(
    mmdet=_TOY_DETECTOR, mmseg=_TOY_SEGMENTOR, mmpretrain=_TOY_CLASSIFIER
)
_TOY_CLASSES = tuple("abcde")


def _write_toy_images(root: Path) -> None:
    """Two images with what each of the libraries wants to know about them."""
    rng = np.random.default_rng(0)
    coco = dict(images=[], annotations=[])
    coco["categories"] = [dict(id=i, name=c) for i, c in enumerate(_TOY_CLASSES)]
    for folder in ("images", "labels"):
        (root / folder).mkdir()
    for index in range(2):
        name = f"{index}.png"
        image = rng.integers(0, 256, (64, 96, 3), dtype=np.uint8)
        labels = np.arange(96)[None].repeat(64, 0) * len(_TOY_CLASSES) // 96
        cv2.imwrite(str(root / "images" / name), image)
        cv2.imwrite(str(root / "labels" / name), labels)
        coco["images"].append(dict(id=index, file_name=name, width=96, height=64))
        box = dict(id=index, image_id=index, category_id=0, bbox=[8, 8, 40, 40])
        box.update(area=1600, iscrowd=0, segmentation=[[8, 8, 48, 8, 48, 48, 8, 48]])
        coco["annotations"].append(box)
    (root / "coco.json").write_text(json.dumps(coco))
    (root / "classes.txt").write_text("0.png 0\n1.png 1\n")


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ToyModel]:
    """Gives the toy model of ``mmdet``, ``mmseg`` or ``mmpretrain``."""

    @cache
    def train(scope: str) -> ToyModel:
        root = tmp_path_factory.mktemp(scope)
        _write_toy_images(root)
        config = root / f"toy_{scope}.py"
        text = _TOY_TRAINING + _TOY_MODELS[scope]
        base = str(ROOT / "configs" / "det" / "mask_rcnn_focal_tiny_3x.py")
        config.write_text(
            text.format(
                scope=scope,
                classes=_TOY_CLASSES,
                number=len(_TOY_CLASSES),
                root=str(root),
                base=base,
            )
        )
        cfg = Config.fromfile(config)
        cfg.work_dir = str(root / "work_dir")
        cfg.test_dataloader = cfg.test_evaluator = cfg.test_cfg = None
        # The runner's logger outlives the test, and with it the stream it has found.
        with redirect_stdout(sys.__stdout__):
            Runner.from_cfg(cfg).train()
        checkpoint = root / "work_dir" / "iter_1.pth"
        return ToyModel(config, checkpoint, _TOY_CLASSES, root / "images")

    return train
