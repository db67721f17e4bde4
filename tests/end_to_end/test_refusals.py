"""Checkpoints that would be loaded in part, by the command lines: one line each."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow

BOX_HEAD = "roi_head.bbox_head.fc_cls.weight"


@pytest.fixture
def changed(unbroken_run, tmp_path) -> Callable[..., Path]:
    """Writes a run's checkpoint with its weights changed."""
    whole = torch.load(unbroken_run[0] / "iter_6.pth", weights_only=False)

    def write(change: Callable[[dict], dict]) -> Path:
        path = tmp_path / "changed.pth"
        torch.save({**whole, "state_dict": change(whole["state_dict"])}, path)
        return path

    return write


def with_value(name: str, value: torch.Tensor) -> Callable[[dict], dict]:
    return lambda state: {**state, name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {"conv1.weight": torch.ones(1)}, "none of its names: the first"),
        (
            lambda state: {n: v for n, v in state.items() if n.startswith("backbone.")},
            "model.backbone.init_cfg.checkpoint=",
        ),
        (with_value(BOX_HEAD, torch.ones(8, 32)), f"{BOX_HEAD} is (8, 32) in the file"),
        (with_value(BOX_HEAD, torch.full((5, 32), torch.nan)), "1 of "),
    ],
    ids=["another model", "backbone", "other classes", "nan"],
)
def test_is_refused(changed, toy_config, run_tool, tmp_path, change, message):
    work = ("--work-dir", tmp_path / "work")
    output = run_tool("test.py", toy_config, changed(change), *work, code=1)
    (line,) = [line for line in output.splitlines() if "test.py: " in line]
    assert "changed.pth" in line
    assert message in line
    assert "Traceback" not in output
    assert "coco/bbox_mAP: " not in output


def test_prefixes_are_taken(changed, toy_config, run_tool, tmp_path):
    path = changed(lambda state: {f"model.{n}": v for n, v in state.items()})
    output = run_tool("test.py", toy_config, path, "--work-dir", tmp_path / "work")
    assert "coco/bbox_mAP: " in output


def test_training_in_part_must_be_asked_for(changed, toy_config, run_tool, tmp_path):
    """As from a model of other classes."""
    path = changed(with_value(BOX_HEAD, torch.ones(8, 32)))
    options = ("--cfg-options", f"load_from={path}", "train_cfg.max_iters=1")
    arguments = (toy_config, "--work-dir", tmp_path / "work", *options)
    output = run_tool("train.py", *arguments, code=1)
    assert "or --allow-partial to load what fits" in output
    output = run_tool("train.py", *arguments, "--allow-partial")
    assert "1 of the model's" in output
    assert "keep their random values, in roi_head (1)" in output
