"""Models are built and run on a tiny image before anything else is."""

from pathlib import Path

import pytest
from mmengine.config import Config

from focal_mm.engine.checks import explained
from focal_mm.engine.checks.model import check_model
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


@pytest.fixture
def line_of(toy_model):
    def line_of(scope: str, **options: object) -> str:
        options = {f"model.{key}": value for key, value in options.items()}
        cfg = load_config(toy_model(scope).config, options)
        with pytest.raises(UserError) as caught, explained(cfg):
            check_model(cfg)
        line = str(caught.value)
        assert "\n" not in line
        return line

    return line_of


@pytest.mark.parametrize("scope", ["mmdet", "mmseg", "mmpretrain"])
def test_sound_models_pass_unchanged(toy_model, scope):
    cfg = Config.fromfile(toy_model(scope).config)
    before = cfg.pretty_text
    check_model(cfg)
    assert cfg.pretty_text == before


def test_a_classifier_that_takes_its_own_size_only_passes():
    check_model(Config.fromfile(CONFIGS / "cls/baselines/swin_tiny_in1k_224.py"))


@pytest.mark.parametrize(
    ("scope", "options", "start"),
    [
        ("mmdet", {"backbone.window_size": 7.5}, "model.backbone: TypeError: window_s"),
        ("mmdet", {"backbone.windowsize": 7}, "model.backbone: TypeError: "),
        ("mmdet", {"backbone.type": "Fokal"}, "model.backbone: KeyError: 'Fokal "),
        ("mmdet", {"backbone.attn_backend": "triton"}, "model.backbone: ValueError"),
        ("mmdet", {"backbone.in_channels": 1}, "model.backbone: RuntimeError"),
        ("mmdet", {"neck.in_channels": [1, 2, 3, 4]}, "model.neck: RuntimeError"),
        ("mmdet", {"neck.in_channels": [16, 32]}, "model.neck: AssertionError"),
        ("mmdet", {"rpn_head.in_channels": 7}, "model.rpn_head: RuntimeError"),
        # The second stage.
        ("mmdet", {"roi_head.bbox_head.in_channels": 7}, "model.roi_head.bbox_head: "),
        ("mmdet", {"roi_head.mask_head.in_channels": 7}, "model.roi_head.mask_head: "),
        ("mmseg", {"decode_head.in_channels": [1, 2, 3, 4]}, "model.decode_head: "),
        ("mmpretrain", {"head.in_channels": 7}, "model.head: RuntimeError"),
    ],
    ids=str,
)
def test_the_part_is_named(line_of, scope, options, start):
    assert line_of(scope, **options).startswith(start)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [path for path in sorted(CONFIGS.glob("[!_]*/*.py")) if "_large_" not in path.name],
    ids=lambda path: path.stem,
)
def test_every_row_passes(config):
    check_model(load_config(config))
