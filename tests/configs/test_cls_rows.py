"""Every classification config builds, trains a step and infers.

A new config is tested by standing in the folder.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, PARAM_SCHEDULERS, init_default_scope
from torch import nn

from demo.toy.formats import ImageFolderSpec
from focal_mm.models.presets import parse_arch

CLS = Path(__file__).parents[2] / "configs" / "cls"
EXAMPLES = CLS / "examples"
LMDB = EXAMPLES / "focal_tiny_in1k_lmdb_224.py"
PLACES = ("*.py", "ablations/*.py", "baselines/*.py", "examples/*.py")
ROWS = sorted({path for place in PLACES for path in CLS.glob(place)} - {LMDB})
TINY = CLS / "focal_tiny_in1k_224.py"
SHRUNK = 2
"""By how much images are smaller than the recipe's."""


@pytest.fixture(scope="module")
def toy_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("rows") / "images"
    ImageFolderSpec(num_train=4, num_val=2).write(root)
    return root


def shrink(node: Any) -> None:
    """Divide the sizes of a pipeline's steps, in place."""
    if isinstance(node, dict):
        for key in ("scale", "crop_size"):
            if isinstance(node.get(key), int):
                node[key] //= SHRUNK
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            shrink(child)


def load(path: Path, data_root: Path) -> Config:
    """A row with its own pipeline, on toy data and at half its size.

    Not Swin, whose windows must not be larger than a map.
    """
    config = Config.fromfile(path)
    for split in ("train", "val", "test"):
        loader = config[f"{split}_dataloader"]
        if loader is not None:
            loader.dataset.data_root = str(data_root)
            if config.model.backbone.type != "SwinTransformer":
                shrink(loader.dataset.pipeline)
    return config


def build(config: Config) -> nn.Module:
    # As the Runner does.
    return MODELS.build(
        dict(config.model, data_preprocessor=config.data_preprocessor.copy())
    )


@pytest.mark.parametrize("path", ROWS, ids=lambda path: path.stem)
def test_row(path, toy_images, train_a_step):
    init_default_scope("mmpretrain")
    config = load(path, toy_images)
    take_fewer_blocks(config.model.backbone)
    model = build(config)
    model.init_weights()
    train_a_step(model, config)
    infer(model, config)


def take_fewer_blocks(backbone: dict) -> None:
    """One a stage where there are more than in the Tiny models."""
    arch = parse_arch(backbone.arch)
    if sum(arch.depths) > 12:
        backbone.arch = arch._replace(depths=(1, 1, 1, 1))._asdict()


def infer(model: nn.Module, config: Config) -> None:
    loader = config.test_dataloader or config.train_dataloader
    dataset = DATASETS.build(loader.dataset)
    model.eval()
    with torch.no_grad():
        results = model.test_step(pseudo_collate([dataset[0], dataset[1]]))
    for result in results:
        assert result.pred_score.shape == (config.model.head.num_classes,)
        assert result.pred_score.sum().item() == pytest.approx(1, abs=1e-4)
        assert result.pred_label.item() == result.pred_score.argmax().item()


def rates_of(config: Config, epoch_length: int) -> np.ndarray:
    """Learning rates at the iterations of so short epochs, (epochs, epoch_length)."""
    lr = config.optim_wrapper.optimizer.lr
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(()))], lr=lr)
    schedulers = [
        PARAM_SCHEDULERS.build(
            dict(cfg, optimizer=optimizer),
            default_args=dict(epoch_length=epoch_length),
        )
        for cfg in config.param_scheduler
    ]
    rates = np.empty((config.train_cfg.max_epochs, epoch_length))
    for index in np.ndindex(*rates.shape):
        rates[index] = optimizer.param_groups[0]["lr"]
        for scheduler in schedulers:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("name", "batch", "epochs", "warm_up", "first", "top", "last"),
    [
        ("focal_tiny_in1k_224", 1024, 300, 20, 1e-5, 1e-3, 1e-5),
        ("focal_large_in22k_224", 4096, 90, 5, 1e-6, 1e-3, 1e-5),
        ("focal_large_in22k_to_in1k_384", 512, 30, 5, 2e-8, 2e-5, 2e-7),
    ],
)
def test_schedule(name, batch, epochs, warm_up, first, top, last):
    config = Config.fromfile(CLS / f"{name}.py")
    assert config.auto_scale_lr == dict(enable=False, base_batch_size=batch)
    assert batch % config.train_dataloader.batch_size == 0
    rates = rates_of(config, 50)
    assert len(rates) == epochs
    rising, falling = rates[:warm_up].ravel(), rates[warm_up:].ravel()
    np.testing.assert_allclose(rising, np.linspace(first, top, rising.size))
    assert falling[0] == pytest.approx(top)
    assert (np.diff(falling) < 0).all()
    assert falling[-1] == pytest.approx(last, rel=0.01)
    middle = falling[falling.size // 2]
    assert middle == pytest.approx((top + last) / 2, rel=0.01)


def test_optimizer():
    init_default_scope("mmpretrain")
    config = Config.fromfile(TINY)
    model = build(config)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    assert isinstance(wrapper.optimizer, torch.optim.AdamW)
    assert wrapper.clip_grad_kwargs == dict(max_norm=5.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in wrapper.optimizer.param_groups:
        for parameter in group["params"]:
            name = names.pop(parameter)
            free = parameter.ndim == 1 or "relative_position_bias_table" in name
            assert group["weight_decay"] == (0 if free else 0.05), name
    assert not names


@pytest.mark.parametrize(
    ("row", "rates", "erasing"),
    # The paper; the released configs, the only source of the others; Swin's own.
    [
        ("focal_{}_in1k_224", (0.2, 0.2, 0.3), 0.0),
        ("focal_{}_conv_in1k_224", (0.2, 0.3, 0.5), 0.25),
        ("focal_fast_{}_in1k_224", (0.2, 0.3, 0.5), 0.25),
        ("baselines/swin_{}_in1k_224", (0.2, 0.3, 0.5), 0.25),
    ],
)
def test_regularisation_is_that_of_the_source(row, rates, erasing):
    for size, rate in zip(("tiny", "small", "base"), rates, strict=True):
        config = Config.fromfile(CLS / f"{row.format(size)}.py")
        assert config.model.backbone.drop_path_rate == rate
        step = config.train_dataloader.dataset.pipeline[4]
        assert (step.type, step.erase_prob) == ("RandomErasing", erasing)


def test_augmentation_is_the_papers():
    """Random erasing, repeated augmentation and weight averaging are left out."""
    config = Config.fromfile(TINY)
    steps = config.train_dataloader.dataset.pipeline
    kinds = [step.type for step in steps]
    assert kinds == [
        "LoadImageFromFile",
        "RandomResizedCrop",
        "RandomFlip",
        "RandAugment",
        "RandomErasing",
        "PackInputs",
    ]
    assert steps[4].erase_prob == 0
    assert (steps[3].num_policies, steps[3].magnitude_level) == (2, 9)
    assert steps[3].magnitude_std == 0.5
    assert config.train_dataloader.sampler.type == "DefaultSampler"
    assert {hook.type for hook in config.custom_hooks} == {"IterSeedHook"}


def test_layer_decay_falls_block_by_block():
    init_default_scope("mmpretrain")
    config = Config.fromfile(EXAMPLES / "focal_tiny_layer_decay_224.py")
    model = build(config)
    wrapper = build_optim_wrapper(model, config.optim_wrapper)
    rates: dict[str, set[float]] = {}
    for group in wrapper.optimizer.param_groups:
        name = group["param_name"]
        block = re.match(r"backbone\.(patch_embed|stages\.\d+\.blocks\.\d+)", name)
        if name.startswith("head."):
            rates.setdefault("head", set()).add(group["lr"])
        elif block:
            rates.setdefault(block[1], set()).add(group["lr"])
    blocks = [
        f"stages.{stage}.blocks.{index}"
        for stage, depth in enumerate((2, 2, 6, 2))
        for index in range(depth)
    ]
    base, decay = config.optim_wrapper.optimizer.lr, 0.8
    order = ["head", *reversed(blocks), "patch_embed"]
    assert set(rates) == set(order)
    for distance, part in enumerate(order):
        (rate,) = rates[part]
        assert rate == pytest.approx(base * decay**distance), part


def test_linear_probe_trains_the_head_alone():
    init_default_scope("mmpretrain")
    config = Config.fromfile(EXAMPLES / "focal_tiny_linear_probe_224.py")
    model = build(config).train()
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"head.fc.weight", "head.fc.bias"}
    lr, batch = config.optim_wrapper.optimizer.lr, config.auto_scale_lr.base_batch_size
    assert batch == 8 * config.train_dataloader.batch_size
    assert lr / batch == pytest.approx(0.1 / 256)
    for stage in model.backbone.stages:
        assert not any(module.training for module in stage.modules())


def test_finetuning_at_384_interpolates_the_biases(tmp_path):
    """From the classifier that focal_large_in22k_224 trains."""
    init_default_scope("mmpretrain")
    configs = [
        Config.fromfile(CLS / f"focal_large_{name}.py")
        for name in ("in22k_224", "in22k_to_in1k_384")
    ]
    for config in configs:
        config.model.backbone.arch = dict(
            embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)
        )
        config.model.head.in_channels = 64
    before, after = map(build, configs)
    # Biases in waves, as a trained model has them, not noise.
    for name, table in before.backbone.named_parameters():
        if "relative_position_bias_table" in name:
            waves = torch.linspace(-3, 3, table.numel()).sin().view_as(table)
            table.data = waves
    torch.save({"state_dict": before.state_dict()}, tmp_path / "in22k.pth")
    configs[1].model.backbone.init_cfg = dict(
        type="Pretrained", checkpoint=str(tmp_path / "in22k.pth")
    )
    after = build(configs[1])
    after.init_weights()
    old, new = before.backbone.state_dict(), after.backbone.state_dict()
    assert set(old) == set(new)
    tables = [name for name in new if "bias_table" in name]
    resized = [name for name in tables if old[name].shape != new[name].shape]
    assert "stages.0.blocks.0.attn.relative_position_bias_table" in resized
    assert "stages.2.blocks.0.attn.relative_position_bias_table_to_neighbors" in resized
    for name in new:
        if name not in resized and "pool" not in name:
            assert torch.equal(old[name], new[name]), name
    after.eval()
    with torch.no_grad():
        assert after(torch.zeros(1, 3, 384, 384)).isfinite().all()


def test_lmdb(toy_images, tmp_path, monkeypatch):
    """The README's way to write LMDB files, and the config that reads them."""
    pytest.importorskip("lmdb", reason="the lmdb package is missing")
    readme = (CLS / "README.md").read_text()
    code = re.search(r"```python\n(import lmdb\b.*?)```", readme, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "imagenet").symlink_to(toy_images)
    init_default_scope("mmpretrain")
    exec(code.replace("1 << 40", "1 << 24"), {})
    config, plain = Config.fromfile(LMDB), Config.fromfile(TINY)
    for split in ("train", "val"):
        loader = config[f"{split}_dataloader"]
        dataset = DATASETS.build(loader.dataset)
        reference = DATASETS.build(plain[f"{split}_dataloader"].dataset)
        assert len(dataset) == len(reference) > 0
        for index in range(len(dataset)):
            torch.manual_seed(0)
            np.random.seed(0)
            found = dataset.pipeline.transforms[0](dataset.get_data_info(index))
            wanted = reference.pipeline.transforms[0](reference.get_data_info(index))
            assert np.array_equal(found["img"], wanted["img"])
            assert found["gt_label"] == wanted["gt_label"]
