"""Models by name: what they compute, what they load, and how timm sees them."""

import argparse
import inspect
import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import MODELS as REGISTRY
from mmengine.registry import DefaultScope
from torch import nn

import focal_mm
from focal_mm.checkpoint import CheckpointError, from_released_args
from focal_mm.layers import ATTENTIONS
from focal_mm.models import MODELS, create
from focal_mm.models.timm_registry import register_with_timm

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(arch=dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)))
IMAGE = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def log():
    """Lines logged by MMEngine's current logger."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture
def classifier() -> nn.Module:
    model = focal_mm.create_model("focal_tiny", num_classes=10, **SMALL)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return model.eval()


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    own, others = one.state_dict(), other.state_dict()
    return own.keys() == others.keys() and all(own[k].equal(others[k]) for k in own)


def arguments_of(given: dict) -> dict:
    """All arguments of the backbone, with those left to the key selection."""
    bound = inspect.signature(focal_mm.FocalTransformer).bind(**given)
    bound.apply_defaults()
    full = bound.arguments
    options = ATTENTIONS[full["key_selection"]].options
    full.update({k: v for k, v in options.items() if full[k] is None})
    return {k: tuple(v) if isinstance(v, list) else v for k, v in full.items()}


@pytest.mark.parametrize("name", MODELS)
def test_names_are_the_rows_of_the_configs(name, monkeypatch):
    data = "in22k" if name == "focal_large" else "in1k"
    row = Config.fromfile(ROOT / f"configs/cls/{name}_{data}_224.py").model
    given = {}

    def build_small(**arguments):
        given.update(arguments)
        return focal_mm.FocalTransformer(**{**arguments, **SMALL})

    monkeypatch.setattr(create, "FocalTransformer", build_small)
    focal_mm.create_model(name)
    assert row.backbone.pop("type") == "FocalTransformer"
    assert arguments_of(given) == arguments_of(row.backbone.to_dict())


@pytest.mark.parametrize(
    "case", ["v1_224", "v1_conv_layerscale_prenorm", "v2_fast_224"]
)
def test_released_file_gives_the_released_logits(
    case, conformance_dir, tmp_path, relative_error
):
    info = json.loads((conformance_dir / "index.json").read_text())[case]
    with np.load(conformance_dir / f"{case}.npz") as data:
        arrays = {name: torch.from_numpy(data[name]) for name in data.files}
    released = {k[3:]: v for k, v in arrays.items() if k.startswith("sd/")}
    torch.save({"model": released}, tmp_path / "released.pth")
    arguments = from_released_args(info["kwargs"], info["version"], info["img_size"])
    del arguments["type"], arguments["out_indices"]
    name = {"v1": "focal_tiny", "v2": "focal_fast_tiny"}[info["version"]]
    model = focal_mm.create_model(
        name, tmp_path / "released.pth", num_classes=10, **arguments
    ).eval()
    logits = model(arrays["io/input"])
    assert relative_error(logits, arrays["io/logits"]) < 1e-5


def test_mmpretrains_classifier_computes_the_same(classifier, relative_error):
    """And its state dict has the same names."""
    pytest.importorskip("mmpretrain", reason="mmpretrain is not installed")
    config = dict(
        type="ImageClassifier",
        backbone=dict(type="FocalTransformer", out_indices=(3,), **SMALL),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=10, in_channels=128),
    )
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        other = REGISTRY.build(config).eval()
    other.load_state_dict(classifier.state_dict(), strict=True)
    assert relative_error(classifier(IMAGE), other(IMAGE)) < 1e-6


def test_maps_and_what_describes_them():
    model = focal_mm.create_model("focal_tiny", features_only=True, **SMALL)
    maps = model(IMAGE)
    assert isinstance(maps, list)
    assert [m.shape[1] for m in maps] == model.feature_info.channels()
    for features, info in zip(maps, model.feature_info, strict=True):
        stride = info["reduction"]
        assert features.shape[2:] == (-(-64 // stride), -(-96 // stride))
    fewer = focal_mm.create_model(
        "focal_tiny", features_only=True, out_indices=(1, 2), in_channels=4, **SMALL
    )
    assert fewer.feature_info.channels() == [32, 64]
    assert fewer.feature_info.reduction() == [8, 16]
    assert len(fewer(torch.randn(1, 4, 33, 40))) == 2


def test_classifier_without_classes_returns_what_would_be_classified(classifier):
    bare = focal_mm.create_model("focal_tiny", num_classes=0, **SMALL).eval()
    bare.backbone.load_state_dict(classifier.backbone.state_dict())
    features = classifier.forward_features(IMAGE)
    assert bare(IMAGE).equal(classifier.forward_head(features, pre_logits=True))
    assert bare(IMAGE).equal(features.mean((2, 3)))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "words"),
    [
        ("focal_tiyn", {}, ValueError, "did you mean focal_tiny "),
        ("resnet50", {}, ValueError, "focal_fast_base"),
        ("focal_tiny", {"window_sise": 7}, TypeError, "did you mean window_size?"),
        ("focal_tiny", {"in_chans": 4}, TypeError, "unknown argument 'in_chans'"),
        ("focal_tiny", {"out_indices": (1,)}, ValueError, "features_only=True"),
        ("focal_fast_tiny", {"expand_sizes": 3}, ValueError, "no effect with"),
        ("focal_tiny", {"checkpoint": "nowhere.pth"}, CheckpointError, "nowhere.pth"),
        ("local-dir:nowhere", {}, CheckpointError, "no config.json in this folder"),
    ],
)
def test_mistakes_are_one_line(name, arguments, error, words):
    arguments = arguments if "nowhere" in name else {**SMALL, **arguments}
    with pytest.raises(error, match=re.escape(words)) as raised:
        focal_mm.create_model(name, **arguments)
    assert "\n" not in str(raised.value)


class TestLoading:
    def test_own_state_dict(self, classifier, tmp_path):
        torch.save(classifier.state_dict(), tmp_path / "own.pth")
        model = focal_mm.create_model(
            "focal_tiny", tmp_path / "own.pth", num_classes=10, **SMALL
        )
        assert same_weights(model, classifier)

    def test_what_timms_training_leaves(self, classifier, tmp_path):
        path = tmp_path / "model_best.pth.tar"
        state = {f"module.{k}": v for k, v in classifier.state_dict().items()}
        args = argparse.Namespace(model="focal_tiny", lr=1e-3, mean=None)
        torch.save(dict(epoch=3, arch="focal_tiny", state_dict=state, args=args), path)
        model = focal_mm.create_model("focal_tiny", path, num_classes=10, **SMALL)
        assert same_weights(model, classifier)

    def test_backbone_alone_starts_a_new_head(self, classifier, tmp_path, log):
        torch.save(classifier.backbone.state_dict(), tmp_path / "backbone.pth")
        model = focal_mm.create_model(
            "focal_tiny", tmp_path / "backbone.pth", num_classes=10, **SMALL
        )
        assert same_weights(model.backbone, classifier.backbone)
        assert not same_weights(model.head, classifier.head)
        assert any("head.fc.weight, head.fc.bias initialised" in line for line in log)

    def test_other_number_of_classes_starts_a_new_head(self, classifier, tmp_path, log):
        torch.save(classifier.state_dict(), tmp_path / "ten.pth")
        model = focal_mm.create_model(
            "focal_tiny", tmp_path / "ten.pth", num_classes=7, **SMALL
        )
        assert same_weights(model.backbone, classifier.backbone)
        assert model(IMAGE).shape == (2, 7)
        assert any("none for 7 classes" in line for line in log)
        assert any("dropped" in line and "head.fc.bias" in line for line in log)

    def test_backbone_of_a_detector(self, classifier, tmp_path, log):
        state = dict(classifier.state_dict(), **{"neck.convs.0.bias": torch.ones(1)})
        torch.save({"state_dict": state, "meta": {}}, tmp_path / "detector.pth")
        model = focal_mm.create_model(
            "focal_tiny", tmp_path / "detector.pth", features_only=True, **SMALL
        )
        name = "stages.3.blocks.0.mlp.fc1.weight"
        own, source = (m.backbone.get_parameter(name) for m in (model, classifier))
        assert own.equal(source)
        assert any("dropped" in line and "neck.convs.0.bias" in line for line in log)

    def test_another_model_is_an_error_and_changes_nothing(self, classifier, tmp_path):
        path = tmp_path / "deeper.pth"
        arch = dict(embed_dims=16, depths=(1, 1, 3, 1), num_heads=(1, 2, 4, 8))
        deeper = focal_mm.create_model("focal_tiny", num_classes=10, arch=arch)
        torch.save(deeper.state_dict(), path)
        before = {k: v.clone() for k, v in classifier.state_dict().items()}
        with pytest.raises(CheckpointError, match=r"deeper\.pth.*other depths"):
            create.load_checkpoint(classifier, str(path))
        assert all(v.equal(before[k]) for k, v in classifier.state_dict().items())


BLOCKED = """
import importlib.abc, sys

asked = set()

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        asked.add(name)
        if name.split(".")[0] in {"mmcv", "mmdet", "mmseg", "mmpretrain", "timm",
                                  "torchvision", "huggingface_hub", "peft"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocked())
import torch, focal_mm
assert "timm" not in asked
model = focal_mm.create_model("focal_tiny", sys.argv[1], num_classes=10,
                              arch=dict(embed_dims=16, depths=(1, 1, 2, 1),
                                        num_heads=(1, 2, 4, 8))).eval()
torch.save(model(torch.load(sys.argv[2])), sys.argv[3])
try:
    focal_mm.create_model("hf-hub:someone/model")
except focal_mm.checkpoint.CheckpointError as error:
    print(error)
"""


def test_works_with_mmengine_alone_and_imports_no_timm(classifier, tmp_path):
    weights, image, out = (tmp_path / name for name in ("w.pth", "x.pth", "y.pth"))
    torch.save(classifier.state_dict(), weights)
    torch.save(IMAGE, image)
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, weights, image, out],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(out), classifier(IMAGE))
    assert "pip install 'focal_mm[hub]'" in done.stdout


class TestTimm:
    @pytest.fixture
    def timm(self):
        return pytest.importorskip("timm", reason="timm is not installed")

    def test_names_are_registered(self, timm):
        assert set(MODELS) <= set(timm.list_models())

    def test_names_are_registered_where_timm_was_first(self, timm, monkeypatch):
        for entries in ("_model_entrypoints", "_model_to_module"):
            monkeypatch.setattr(timm.models._registry, entries, {})
        register_with_timm()
        assert timm.is_model("focal_tiny")

    def test_maps_are_those_of_create_model(self, timm):
        model = timm.create_model(
            "focal_tiny", features_only=True, out_indices=(1, 3), **SMALL
        )
        assert model.feature_info.channels() == [32, 128]
        assert model.feature_info.reduction() == [8, 32]
        other = focal_mm.create_model(
            "focal_tiny", features_only=True, out_indices=(1, 3), **SMALL
        )
        other.load_state_dict(model.state_dict())
        for ours, theirs in zip(other.eval()(IMAGE), model.eval()(IMAGE), strict=True):
            assert ours.equal(theirs)

    def test_its_arguments(self, timm):
        model = timm.create_model(
            "focal_tiny",
            pretrained=False,
            num_classes=7,
            in_chans=4,
            drop_rate=0.25,
            drop_path_rate=0.4,
            **SMALL,
        )
        assert model(torch.randn(1, 4, 32, 32)).shape == (1, 7)
        assert model.head.drop.p == 0.25
        assert model.default_cfg["architecture"] == "focal_tiny"
        assert timm.data.resolve_data_config(model=model)["crop_pct"] == 0.875
        model.reset_classifier(3)
        assert model.get_classifier().out_features == model.num_classes == 3
        with pytest.raises(ValueError, match="global_pool must be 'avg'"):
            timm.create_model("focal_tiny", global_pool="max", **SMALL)
        with pytest.raises(TypeError, match="did you mean window_size"):
            timm.create_model("focal_tiny", window_sise=7, **SMALL)

    def test_pretrained_takes_any_layout(self, timm, classifier, tmp_path):
        released = {
            name.replace("stages.", "layers.").replace("norm3.", "norm."): value
            for name, value in classifier.backbone.state_dict().items()
        }
        released["head.weight"] = classifier.head.fc.weight.detach()
        released["head.bias"] = classifier.head.fc.bias.detach()
        path = tmp_path / "released.pth"
        torch.save({"model": released}, path)
        source = dict(file=str(path), num_classes=10)
        model = timm.create_model(
            "focal_tiny", pretrained=True, pretrained_cfg_overlay=source, **SMALL
        )
        assert same_weights(model, classifier)

    @pytest.mark.parametrize("coarse", [False, True])
    def test_layer_groups_are_those_of_layer_decay(self, timm, classifier, coarse):
        from timm.models import group_parameters

        groups = group_parameters(classifier, classifier.group_matcher(coarse))
        names = {name: i for i, group in groups.items() for name in group}
        assert len(names) == len(list(classifier.parameters()))
        depth = classifier.backbone.get_layer_depth
        for name in names:
            if coarse and ".stages." in name:
                assert names[name] == int(name.split(".")[2]) + 1
            elif not coarse and ".norm3" not in name:
                assert names[name] == depth(name, "backbone.")[0], name

    def test_optimizer_of_its_scripts(self, timm, classifier):
        from timm.optim import param_groups_layer_decay

        groups = param_groups_layer_decay(
            classifier,
            weight_decay=0.05,
            no_weight_decay_list=classifier.no_weight_decay(),
            layer_decay=0.9,
        )
        tables = [
            parameter
            for name, parameter in classifier.named_parameters()
            if "relative_position_bias_table" in name
        ]
        decayed = {id(p) for g in groups if g["weight_decay"] for p in g["params"]}
        assert tables
        assert not decayed & {id(table) for table in tables}

    def test_checkpointing_computes_the_same(self, classifier):
        model = classifier.train()
        model.set_grad_checkpointing()
        assert all(stage.with_cp for stage in model.backbone.stages)
        torch.manual_seed(1)
        one = model(IMAGE)
        model.set_grad_checkpointing(False)
        torch.manual_seed(1)
        assert one.equal(model(IMAGE))
