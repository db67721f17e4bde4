"""Trainings from scratch on toy data, to the marks that a working model reaches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.parametrize(
    ("data", "config", "metric", "mark"),
    [
        ("ade", "upernet_focal_tiny_shapes.py", "mIoU", 50),
        ("imagefolder", "focal_tiny_shapes.py", "accuracy/top1", 90),
    ],
    ids=["seg", "cls"],
)
def test_training_reaches_its_mark(tmp_path, data, config, metric, mark):
    """By the commands of the README: the paths in the config are relative to here."""

    def run(tool: str, *arguments: str | Path) -> None:
        done = subprocess.run(
            [sys.executable, ROOT / "tools" / tool, *arguments],
            cwd=tmp_path,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:]

    task = {"ade": "seg", "imagefolder": "cls"}[data]
    run("../demo/make_toy_data.py", data, f"work_dirs/demo_{task}/data")
    run("train.py", ROOT / "demo/configs" / config)
    (log,) = (tmp_path / "work_dirs").glob("*/2*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (found,) = [line[metric] for line in lines if metric in line]
    assert found >= mark
