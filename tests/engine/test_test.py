"""The command line of testing: what it does to a config, and how it says no."""

from collections.abc import Callable

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from focal_mm.det import DetMaskTTAModel
from focal_mm.engine import test
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError


@pytest.fixture
def testing_cfg(adapted) -> Callable[..., Config]:
    """Config of a ``test.py`` command line."""
    return lambda *options, **scope: adapted(test, "model.pth", *options, **scope)[0]


def test_checkpoint(testing_cfg):
    assert testing_cfg().load_from == "model.pth"


@pytest.mark.parametrize(
    ("scope", "hook"),
    [
        ("mmdet", dict(draw=True, test_out_dir="shown")),
        ("mmseg", dict(draw=True)),
        ("mmpretrain", dict(enable=True, interval=1, out_dir="shown")),
    ],
)
def test_show_dir(testing_cfg, scope, hook):
    cfg = testing_cfg("--show-dir", "shown", scope=scope)
    found = dict(cfg.default_hooks.visualization)
    assert found == dict(type="VisualizationHook", **hook)
    assert cfg.visualizer.get("save_dir") == ("shown" if scope == "mmseg" else None)


def test_show(testing_cfg):
    hook = testing_cfg("--show", "--wait-time", "5").default_hooks.visualization
    assert (hook.show, hook.wait_time) == (True, 5)


def test_what_cannot_be_drawn(testing_cfg):
    with pytest.raises(UserError, match="cannot draw predictions of --tta"):
        testing_cfg("--show", "--tta", scope="mmpretrain")
    with pytest.raises(UserError, match="one of mmdet, mmseg, mmpretrain, got mmocr"):
        testing_cfg("--show", scope="mmocr")
    with pytest.raises(UserError, match=r"default_hooks\.visualization"):
        testing_cfg("--show", "--cfg-options", "default_hooks.visualization=None")


@pytest.mark.parametrize(
    ("scope", "metric"),
    [("mmdet", "DumpDetResults"), ("mmseg", "DumpResults")],
)
def test_out(testing_cfg, scope, metric):
    dump = dict(type=metric, out_file_path="p.pkl")
    assert testing_cfg("--out", "p.pkl", scope=scope).test_evaluator == [
        dict(type="Metric"),
        dump,
    ]
    several = "test_evaluator.metrics=[]"
    cfg = testing_cfg("--out", "p.pkl", "--cfg-options", several, scope=scope)
    assert cfg.test_evaluator.metrics == [dump]


def test_out_as_a_folder(testing_cfg):
    metric = testing_cfg("--out", "maps", scope="mmseg").test_evaluator
    assert metric == dict(type="Metric", output_dir="maps", keep_results=True)
    with pytest.raises(UserError, match=r"--out must end with \.pkl"):
        testing_cfg("--out", "maps", scope="mmdet")


@pytest.mark.parametrize(
    ("scope", "model"),
    [("mmdet", "DetTTAModel"), ("mmpretrain", "mmpretrain.AverageClsScoreTTA")],
)
def test_tta_default_is_a_flip(testing_cfg, scope, model):
    cfg = testing_cfg("--tta", scope=scope)
    assert cfg.model.type == model
    assert cfg.model.module.type == "Model"
    load, augment = cfg.test_dataloader.dataset.dataset.pipeline
    assert load.type == "LoadImageFromFile"
    assert [flip.prob for flip in augment.transforms[0]] == [1, 0]


def test_tta_of_the_config(testing_cfg):
    options = ("tta_model.type=Mine", "tta_pipeline=[]")
    cfg = testing_cfg("--tta", "--cfg-options", *options, scope="mmseg")
    assert (cfg.model.type, cfg.model.module.type) == ("Mine", "Model")
    assert cfg.test_dataloader.dataset.dataset.pipeline == []
    with pytest.raises(UserError, match="needs tta_model"):
        testing_cfg("--tta", scope="mmseg")


def test_tta_of_what_a_run_with_tta_left(testing_cfg, folder):
    cfg = testing_cfg("--tta")
    cfg.dump(folder / "left.py")
    again = load_config("left.py")
    test._adapt(again, test._parser().parse_args(["left.py", "model.pth", "--tta"]))
    assert again.model == cfg.model
    assert again.test_dataloader == cfg.test_dataloader


def test_tta_of_masks(testing_cfg):
    mask_head = "model.roi_head.mask_head.type=Head"
    cfg = testing_cfg("--tta", "--cfg-options", mask_head)
    # As the runner finds it, whatever the config imports.
    assert MODELS.get(cfg.model.type) is DetMaskTTAModel
    cfg = testing_cfg("--tta", "--cfg-options", mask_head, "tta_model.type=Mine")
    assert cfg.model.type == "Mine"
