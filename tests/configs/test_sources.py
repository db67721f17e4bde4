"""The commands of docs/sources.md: options that exist, change something, and build."""

from __future__ import annotations

import argparse
import copy
import re
import subprocess
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS, init_default_scope
from torch import nn

from focal_mm.engine.options import add_cfg_options
from focal_mm.models.presets import parse_arch

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SCOPES = {"det": "mmdet", "seg": "mmseg", "cls": "mmpretrain"}
COMMAND = re.compile(r"^python tools/train.py ((?:.*\\\n)*.*)$", re.MULTILINE)
COMMANDS = COMMAND.findall((ROOT / "docs" / "sources.md").read_text())


def parse(command: str) -> tuple[Path, dict[str, Any]]:
    """Config and options, as a shell and tools/train.py read them."""
    words = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {command}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    add_cfg_options(parser)
    arguments = parser.parse_args(words)
    return ROOT / arguments.config, arguments.cfg_options


def value_at(config: Config, key: str) -> Any:
    """Raises KeyError or IndexError where there is none."""
    parts = (int(part) if part.isdigit() else part for part in key.split("."))
    return reduce(lambda node, part: node[part], parts, config)


def build(config: Config) -> nn.Module:
    """The model with one block a stage."""
    model = copy.deepcopy(config.model)
    arch = parse_arch(model.backbone.arch)
    model.backbone.arch = arch._replace(depths=(1,) * 4)._asdict()
    return MODELS.build(model)


def test_page_has_commands():
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("command", COMMANDS)
def test_option(command):
    path, options = parse(command)
    init_default_scope(SCOPES[path.relative_to(CONFIGS).parts[0]])
    config = Config.fromfile(path)
    before = copy.deepcopy(config)
    config.merge_from_dict(options)
    for key, value in options.items():
        backbone, _, argument = key.partition("model.backbone.")
        if not backbone:
            # Defaults are not written out; the backbone refuses unknown arguments.
            assert before.model.backbone.get(argument) != value, key
        else:
            assert value_at(config, key) != value_at(before, key), key
    if any(key.startswith("train_dataloader.") for key in options):
        steps = config.train_dataloader.dataset.pipeline
        for step in steps:
            TRANSFORMS.build(step)
        if "train_dataloader.dataset.pipeline.2.prob" in options:
            task = "instance" if "roi_head" in config.model else "detection"
            name = f"det/_base_/datasets/coco_{task}_swin.py"
            swin = Config.fromfile(CONFIGS / name).train_dataloader
            assert steps == swin.dataset.pipeline
        return
    model = build(config)
    # Mixed precision wants a GPU.
    build_optim_wrapper(model, dict(config.optim_wrapper, type="OptimWrapper"))
    if "pretraining" in options:
        (source,) = CONFIGS.glob(f"cls/**/{config.pretraining}.py")
        ours, theirs = config.model.backbone, Config.fromfile(source).model.backbone
        for key in ("arch", "use_conv_embed"):
            assert ours.get(key) == theirs.get(key)
    if "model.roi_head.bbox_head.0.num_shared_convs" in options:
        for head in model.roi_head.bbox_head:
            assert (len(head.shared_convs), len(head.shared_fcs)) == (4, 1)
            assert head.fc_reg.out_features == 4
