"""The detection recipe of the paper (section 4.2), read off what configs build."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from torch import nn

ROOT = Path(__file__).parents[2]
DET = ROOT / "configs" / "det"
BASES = DET / "_base_"
NO_DECAY = ("absolute_pos_embed", "relative_position_bias_table", "norm")


@pytest.fixture(scope="module")
def config() -> Config:
    init_default_scope("mmdet")
    return Config.fromfile(DET / "mask_rcnn_focal_tiny_3x.py")


@pytest.fixture(scope="module")
def detector(config: Config) -> nn.Module:
    return MODELS.build(config.model)


def test_backbone(detector):
    shapes = {name: p.shape for name, p in detector.backbone.named_parameters()}
    heads, regions, depths = (3, 6, 12, 24), (15, 13, 9, 7), (2, 2, 6, 2)
    for stage, region in enumerate(regions):
        for block in range(depths[stage]):
            table = f"stages.{stage}.blocks.{block}.attn.relative_position_bias_table"
            # Window 7; expansion by 3: 132 keys in the corners' rolled windows.
            assert shapes[table] == (13**2, heads[stage])
            assert shapes[f"{table}_to_neighbors"] == (1, heads[stage], 49, 132)
            # One coarse level: all offsets between window and focal window.
            offsets = (7 + region - 1) ** 2
            assert shapes[f"{table}_to_windows.0"] == (heads[stage], offsets)
            assert f"{table}_to_windows.1" not in shapes


def test_stochastic_depth_grows_to_the_papers_rate(detector):
    rates = [
        module.drop_prob
        for module in detector.backbone.modules()
        if type(module).__name__ == "DropPath"
    ]
    assert rates == sorted(rates)
    assert max(rates) == pytest.approx(0.2)


def test_optimizer(config, detector):
    wrapper = build_optim_wrapper(detector, config.optim_wrapper)
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    assert not wrapper.clip_grad_kwargs
    names = {parameter: name for name, parameter in detector.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        assert group["lr"] == 1e-4
        assert group["betas"] == (0.9, 0.999)
        for parameter in group["params"]:
            name = names.pop(parameter)
            decays = not any(key in name for key in NO_DECAY)
            assert group["weight_decay"] == (0.05 if decays else 0), name
    assert not names, "parameters that are not optimised"


def test_schedule(config):
    """Learning rates of 36 epochs of 600 iterations."""
    per_epoch = 600
    assert config.train_cfg.type == "EpochBasedTrainLoop"
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=1e-4)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(cfg, optimizer=optimizer))
        for cfg in config.param_scheduler
    ]
    rates = np.empty((config.train_cfg.max_epochs, per_epoch))
    for epoch in range(len(rates)):
        for iteration in range(per_epoch):
            rates[epoch, iteration] = optimizer.param_groups[0]["lr"]
            for scheduler in schedulers:
                if not scheduler.by_epoch:
                    scheduler.step()
        for scheduler in schedulers:
            if scheduler.by_epoch:
                scheduler.step()
    warm_up = 1e-4 * np.linspace(0.001, 1, 500)
    np.testing.assert_allclose(rates[0, :500], warm_up, rtol=1e-6)
    np.testing.assert_allclose(rates[0, 500:], 1e-4)
    np.testing.assert_allclose(rates[1:27], 1e-4)
    np.testing.assert_allclose(rates[27:33], 1e-5)
    np.testing.assert_allclose(rates[33:], 1e-6)
    assert len(rates) == 36


def test_batch(config):
    """8 GPUs x 2 images, to which --auto-scale-lr refers."""
    assert 8 * config.train_dataloader.batch_size == 16
    assert config.auto_scale_lr == dict(enable=False, base_batch_size=16)


def pipeline(base: str) -> list[dict]:
    """The training pipeline of a data set base."""
    init_default_scope("mmdet")
    config = Config.fromfile(BASES / "datasets" / f"{base}.py")
    return config.train_dataloader.dataset.pipeline


def sides_of(resize: dict, count: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Shorter and longer sides of resized images of several shapes."""
    step = Compose([resize])
    np.random.seed(0)
    shapes = []
    for _ in range(count):
        height, width = [(48, 64), (64, 48), (20, 80)][np.random.randint(3)]
        image = np.zeros((height, width, 3), np.uint8)
        result = step(dict(img=image, img_shape=(height, width)))
        shapes.append(sorted(result["img"].shape[:2]))
    return np.array(shapes).T


@pytest.mark.parametrize("task", ["detection", "instance"])
@pytest.mark.parametrize("scales", ["", "_ms", "_swin"])
def test_pipelines(task, scales):
    steps = pipeline(f"coco_{task}{scales}")
    kinds = [step.type for step in steps]
    assert kinds[:2] == ["LoadImageFromFile", "LoadAnnotations"]
    assert steps[1].get("with_mask", False) == (task == "instance")
    assert kinds[3:] == ["RandomFlip", "PackDetInputs"]


def test_one_scale_of_1x():
    shorter, longer = sides_of(pipeline("coco_instance")[2])
    assert all((shorter == 800) | (longer == 1333))
    assert longer.max() <= 1333


def assert_multi_scale(shorter: np.ndarray, longer: np.ndarray) -> None:
    assert longer.max() <= 1333
    free = shorter[longer < 1333]
    assert (free.min(), free.max()) == (480, 800)
    assert len(set(free)) > 5


def test_multi_scale_of_3x():
    """Shorter sides over the whole of [480, 800], longer ones up to 1333."""
    assert_multi_scale(*sides_of(pipeline("coco_instance_ms")[2]))


@pytest.mark.parametrize("task", ["detection", "instance"])
def test_pipeline_of_swin(task):
    """Every second image is cropped, as its published 1x and 3x configs have it."""
    resize = pipeline(f"coco_{task}_swin")[2]
    assert resize.prob == [0, 0.5, 0.5]
    _, (multi_scale,), (small, crop, again) = resize.transforms
    shorter_sides = [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    assert multi_scale == again
    assert multi_scale.scales == [(side, 1333) for side in shorter_sides]
    assert small.scales == [(400, 1333), (500, 1333), (600, 1333)]
    assert (crop.crop_type, crop.crop_size) == ("absolute_range", (384, 600))
    assert crop.allow_negative_crop
    assert multi_scale.keep_ratio
    assert small.keep_ratio
    # Cropped images have other proportions than the three that go in.
    shorter, longer = sides_of(resize)
    assert longer.max() <= 1333
    assert len(set(np.round(longer / shorter, 1))) > 2


def test_sizes_of_reppointsv2():
    """16 of them, as Swin's repository has it, not a range."""
    shorter, longer = sides_of(pipeline("coco_detection_ms_480_960")[2])
    assert longer.max() <= 1333
    free = set(shorter[longer < 1333])
    assert free <= set(range(480, 961, 32))
    assert {480, 960} <= free


def test_dyhead_pads_to_the_stride_of_p7():
    config = Config.fromfile(DET / "atss_dyhead_focal_large_2x.py")
    assert config.model.data_preprocessor.pad_size_divisor == 128


def test_best_and_last_checkpoints_are_kept(config):
    hook = config.default_hooks.checkpoint
    assert hook.save_best == "coco/bbox_mAP"
    # MMEngine removes the oldest before it writes the newest.
    assert hook.max_keep_ckpts >= 2
    assert config.val_evaluator.metric == ["bbox", "segm"]


def test_nothing_is_fetched_by_default(config):
    """No weights are named that might not be there."""
    text = config.pretty_text
    assert "Pretrained" not in text
    assert "http" not in text
