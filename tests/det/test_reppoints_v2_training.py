"""RepPoints V2 learns the toy shapes, from scratch and on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from demo.toy.formats import CocoSpec

CONFIG = Path(__file__).parents[2] / "demo/configs/reppointsv2_shapes.py"


@pytest.mark.slow
@pytest.mark.training
def test_learns_the_toy_shapes(tmp_path):
    data = tmp_path / "data"
    CocoSpec(num_train=400, num_val=60, size=192).write(data)
    config = Config.fromfile(CONFIG)
    config.merge_from_dict(
        {
            "work_dir": str(tmp_path / "run"),
            "train_dataloader.dataset.data_root": f"{data}/",
            "test_dataloader.dataset.data_root": f"{data}/",
            "test_evaluator.ann_file": str(data / "annotations/instances_val2017.json"),
            "default_hooks.checkpoint": None,
        }
    )
    runner = Runner.from_cfg(config)
    runner.train()
    metrics = runner.test()

    (log,) = (tmp_path / "run").glob("*/vis_data/scalars.json")
    lines = map(json.loads, log.read_text().splitlines())
    losses = np.array([line["loss"] for line in lines if "loss" in line])
    assert np.isfinite(losses).all()
    assert losses[-5:].mean() < 0.7 * losses[:5].mean()
    assert metrics["coco/bbox_mAP_50"] >= 0.3
