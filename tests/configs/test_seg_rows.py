"""Every segmentation config builds, trains a step and infers.

A new config is tested by standing in the folder.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, init_default_scope
from torch import nn

from demo.toy.formats import AdeSpec
from focal_mm.engine.test import main as run_test
from focal_mm.models.presets import parse_arch

SEG = Path(__file__).parents[2] / "configs" / "seg"
ROWS = sorted(SEG.glob("*.py"))
BASELINES = sorted(SEG.glob("baselines/*.py"))
TINY = SEG / "upernet_focal_tiny_512x512_160k_ade20k.py"
LARGE = SEG / "upernet_focal_large_640x640_160k_ade20k.py"
CLASSES = 150
SHRUNK = 8
"""By how much images are smaller than the recipe's."""


@pytest.fixture(scope="module")
def toy_ade(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rows") / "ade"
    AdeSpec(num_train=2, num_val=2, size=96).write(root)
    return root


def shrink(node: Any) -> None:
    """Divide the sizes of pipelines, crops and windows, in place."""
    if isinstance(node, dict):
        for key in ("scale", "crop_size", "size", "stride"):
            if isinstance(node.get(key), (list, tuple)):
                node[key] = tuple(side // SHRUNK for side in node[key])
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            shrink(child)


def load(path: Path, data_root: Path) -> Config:
    """A row with its own pipeline and 150 classes, on toy data and at their size."""
    config = Config.fromfile(path)
    for split in ("train", "val", "test"):
        loader = config[f"{split}_dataloader"]
        loader.dataset.data_root = str(data_root)
        loader.update(num_workers=0, persistent_workers=False)
        shrink(loader.dataset.pipeline)
    for part in (config.tta_pipeline, config.model.data_preprocessor):
        shrink(part)
    shrink(config.model.test_cfg)
    return config


def take_fewer_blocks(backbone: dict) -> None:
    """In each stage, where there are more than in the Tiny models."""
    if "depths" in backbone:
        # Swin needs two blocks, of which it shifts one.
        backbone.depths = (2, 2, 2, 2)
    elif sum((arch := parse_arch(backbone.arch)).depths) > 12:
        backbone.arch = arch._replace(depths=(1, 1, 1, 1))._asdict()


@pytest.mark.parametrize(
    "path",
    [
        *ROWS,
        # They differ in numbers.
        *(
            pytest.param(path, marks=[pytest.mark.slow] * ("tiny" not in path.stem))
            for path in BASELINES
        ),
    ],
    ids=lambda path: path.stem,
)
def test_row(path, toy_ade, train_a_step):
    init_default_scope("mmseg")
    config = load(path, toy_ade)
    take_fewer_blocks(config.model.backbone)
    model = MODELS.build(config.model)
    model.init_weights()
    model = revert_sync_batchnorm(model)
    train_a_step(model, config)
    infer(model, config)


def infer(model: nn.Module, config: Config) -> None:
    dataset = DATASETS.build(config.test_dataloader.dataset)
    assert len(dataset.metainfo["classes"]) == CLASSES
    model.eval()
    with torch.no_grad():
        (result,) = model.test_step(pseudo_collate([dataset[0]]))
    labels, scores = result.pred_sem_seg.data, result.seg_logits.data
    assert labels.shape == (1, *result.ori_shape) == (1, 96, 96)
    assert scores.shape == (CLASSES, 96, 96)
    assert scores.isfinite().all()
    assert torch.equal(labels[0], scores.argmax(dim=0))
    # Truth as the metric sees it: what is unlabelled is 255.
    truth = result.gt_sem_seg.data
    assert truth.shape == labels.shape
    assert set(truth.unique().tolist()) <= {*range(5), 255}


@pytest.mark.parametrize(
    ("path", "mode"), [(TINY, "whole"), (LARGE, "slide")], ids=["whole", "slide"]
)
def test_test_time_augmentation_by_command_line(path, mode, toy_ade, tmp_path):
    """Six ratios, each flipped and not, averaged; whole images and windows."""
    init_default_scope("mmseg")
    config = load(path, toy_ade)
    assert config.model.test_cfg.mode == "whole"
    config.model.test_cfg.mode = mode
    config.model.backbone.arch = dict(
        embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8)
    )
    channels = [16, 32, 64, 128]
    config.model.decode_head.update(in_channels=channels, channels=16)
    config.model.auxiliary_head.update(in_channels=channels[2], channels=16)
    model = MODELS.build(config.model)
    # Some of an untrained model's predictions must be right.
    model.decode_head.conv_seg.bias.data[5:] = -100
    torch.save({"state_dict": model.state_dict()}, tmp_path / "toy.pth")
    config.dump(tmp_path / "toy.py")
    augmented = DATASETS.build(
        {**config.test_dataloader.dataset, "pipeline": config.tta_pipeline}
    )[0]
    sides = [image.shape[-1] for image in augmented["inputs"]]
    single = DATASETS.build(config.test_dataloader.dataset)[0]["inputs"].shape[-1]
    ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
    assert sides == [int(ratio * single) for ratio in ratios for _ in range(2)]
    flips = [sample.flip for sample in augmented["data_samples"]]
    assert flips == [False, True] * len(ratios)

    work_dir = tmp_path / "out"
    arguments = [tmp_path / "toy.py", tmp_path / "toy.pth", "--work-dir", work_dir]
    metrics = []
    for options in ([], ["--tta"]):
        assert run_test([str(argument) for argument in arguments + options]) == 0
        log = max(work_dir.glob("2*/2*.json"), key=lambda file: file.stat().st_mtime_ns)
        found = json.loads(log.read_text())
        metrics.append([found[name] for name in ("mIoU", "aAcc", "mAcc")])
    assert (np.array(metrics) > 0).all()
    assert metrics[0] != metrics[1]


def test_optimizer():
    init_default_scope("mmseg")
    config = Config.fromfile(TINY)
    model = MODELS.build(config.model)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    assert not wrapper.clip_grad_kwargs
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        assert (group["lr"], group["betas"]) == (6e-5, (0.9, 0.999))
        for parameter in group["params"]:
            name = names.pop(parameter)
            free = "norm" in name or "relative_position_bias_table" in name
            assert group["weight_decay"] == (0 if free else 0.01), name
    assert not names


def test_schedule():
    """Linear warm-up in 1500 iterations, then a straight line to 0 at 160000."""
    config = Config.fromfile(TINY)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=6e-5)
    schedulers = [
        PARAM_SCHEDULERS.build(dict(cfg, optimizer=optimizer))
        for cfg in config.param_scheduler
    ]
    rates = []
    for _ in range(4000):
        rates.append(optimizer.param_groups[0]["lr"])
        for scheduler in schedulers:
            scheduler.step()
    np.testing.assert_allclose(rates[:1500], 6e-5 * np.linspace(1e-6, 1, 1500))
    end = config.train_cfg.max_iters
    assert end == 160000
    later = np.arange(1500, 4000)
    falling = 6e-5 * (end - later) / (end - 1500)
    np.testing.assert_allclose(rates[1500:], falling, rtol=1e-3)


@pytest.mark.parametrize("path", [*ROWS, *BASELINES], ids=lambda path: path.stem)
def test_recipe_is_shared(path):
    """Also by the comparison with Swin: rows differ in the model and image size."""
    config, tiny = Config.fromfile(path), Config.fromfile(TINY)
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "auto_scale_lr"):
        assert config[key] == tiny[key]
    assert 8 * config.train_dataloader.batch_size == 16
    assert config.auto_scale_lr == dict(enable=False, base_batch_size=16)
    assert config.model.auxiliary_head.loss_decode.loss_weight == 0.4
    assert config.model.backbone.drop_path_rate == 0.3
    assert "http" not in str(config.model)
