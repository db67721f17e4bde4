"""Rows with Swin start from what the suite's own Swin classifiers learn."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

CONFIGS = Path(__file__).parents[2] / "configs"
CLASSIFIERS = CONFIGS / "cls" / "baselines"
DEPTHS = (2, 2, 2, 2)
"""Of all models here: one block of each kind in each stage."""


def backbone(config: Config, **rest: object) -> nn.Module:
    cfg = dict(config.model.backbone, **rest)
    if isinstance(cfg.get("arch"), dict):
        cfg["arch"] = dict(cfg["arch"], depths=DEPTHS)
    elif "arch" in cfg:
        # Tiny; the others differ in numbers.
        cfg["arch"] = dict(embed_dims=96, depths=DEPTHS, num_heads=(3, 6, 12, 24))
    else:
        cfg["depths"] = DEPTHS
    with DefaultScope.overwrite_default_scope(config.default_scope):
        return MODELS.build(cfg)


@pytest.mark.parametrize(
    "name",
    [
        "det/baselines/mask_rcnn_swin_tiny_1x",
        "det/baselines/mask_rcnn_swin_tiny_window14_1x",
        "det/baselines/mask_rcnn_swin_tiny_no_shift_1x",
        "det/baselines/mask_rcnn_swin_tiny_depth_2242_1x",
        "seg/baselines/upernet_swin_tiny_512x512_160k_ade20k",
    ],
)
def test_classifier_is_loaded(name, tmp_path):
    config = Config.fromfile(CONFIGS / f"{name}.py")
    pretraining = Config.fromfile(CLASSIFIERS / f"{config.pretraining}.py")
    classifier = backbone(pretraining)
    for parameter in classifier.parameters():
        # Not what either library initialises anything with.
        nn.init.normal_(parameter, mean=1.0)
    state = {f"backbone.{name}": p for name, p in classifier.state_dict().items()}
    checkpoint = tmp_path / "classifier.pth"
    torch.save(dict(state_dict=state), checkpoint)

    # MMDetection's and MMSegmentation's Swin look for the prefix by themselves.
    pretrained = dict(type="Pretrained", checkpoint=str(checkpoint), prefix="backbone.")
    model = backbone(config, init_cfg=Config(pretrained)._cfg_dict)
    model.init_weights()
    given, found = classifier.state_dict(), model.state_dict()
    new = {name for name in found if name not in given}
    assert new == {f"norm{i}.{kind}" for i in range(3) for kind in ("weight", "bias")}
    assert all(torch.equal(found[key], value) for key, value in given.items())


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
@pytest.mark.parametrize("task", ["det", "seg"])
def test_sizes_are_the_classifiers(task, size):
    bases = CONFIGS / task / "_base_" / "backbones"
    config = Config.fromfile(bases / f"swin_{size}.py")
    pretraining = Config.fromfile(CLASSIFIERS / f"{config.pretraining}.py")
    assert config.pretraining == f"swin_{size}_in1k_224"
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        arch = MODELS.get("mmpretrain.SwinTransformer").arch_zoo
    expected = arch[pretraining.model.backbone.arch]
    found = config.backbone
    assert {key: list(found[key]) for key in ("depths", "num_heads")} == {
        key: expected[key] for key in ("depths", "num_heads")
    }
    assert found.embed_dims == expected["embed_dims"]
    assert config.channels == [found.embed_dims * 2**stage for stage in range(4)]
