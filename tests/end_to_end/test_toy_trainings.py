"""Trainings from scratch on toy data, to the marks that a working model reaches."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

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

    def run(*command: str | Path) -> None:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-5000:]

    config = ROOT / "demo/configs" / config
    run("-m", "demo.toy", data, Config.fromfile(config).data_root)
    run(ROOT / "tools/train.py", config)
    (log,) = (tmp_path / "work_dirs").glob("*/2*/vis_data/scalars.json")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (found,) = [line[metric] for line in lines if metric in line]
    assert found >= mark
