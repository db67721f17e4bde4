"""A small suite of rows, and work dirs as MMEngine leaves them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from mmengine.config import Config

from focal_mm.engine.ledger.command_line import main

METAFILE = """\
# A comment at the head.
Collections:
  - Name: Mask R-CNN
  - Name: Classifier

Models:
  - Name: detector_1x
    In Collection: Mask R-CNN
    Config: configs/detector_1x.py
    Metadata:
      Source: paper
      Epochs: 4
    Results:
      - Task: Object Detection
        Dataset: COCO
        Reference: table 3; table 8
        Metrics:
          box AP: 44.8
          box AP50: 67.0
      # A second opinion.
      - Task: Object Detection
        Dataset: COCO
        Source: paper, table 7
        Reference: table 7
        Metrics:
          box AP: 44.9
      - Task: Instance Segmentation
        Dataset: COCO
        Reference: arXiv table 5
        Metrics:
          mask AP (ms): 41.0
      - Task: Object Detection
        Dataset: COCO test-dev
        Reference: table 5
        Metrics:
          box AP (ms): 58.4

  # A comment between.
  - Name: detector_public
    In Collection: Mask R-CNN
    Config: configs/detector_public.py
    Metadata:
      Source: paper
    Results:
      - Task: Object Detection
        Dataset: COCO
        Reference: table 3
        Metrics: {box AP: 38.0}

  - Name: tiny_in1k
    In Collection: Classifier
    Config: configs/tiny_in1k.py
    Metadata:
      Source: measured
      Epochs: 4
# A comment at the end.
"""
CONFIG = """\
pretraining = {pretraining!r}
default_scope = {scope!r}
model = dict(type="Model", backbone=dict(type="Net", depths=[2, 2]))
train_dataloader = dict(batch_size=2, dataset=dict(type="Data", data_root="data/"))
test_dataloader = dict(batch_size=1, dataset=dict(data_root="data/"))
train_cfg = dict(max_epochs=4)
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=1e-4))
auto_scale_lr = dict(enable=False, base_batch_size=16)
"""
PRETRAINING = {
    "detector_1x": "tiny_in1k",
    "detector_public": "torchvision://resnet50",
    "tiny_in1k": None,
}


@dataclass(frozen=True)
class Suite:
    """A repository with three rows, and the work dirs in it."""

    root: Path
    work_dirs: Path

    @property
    def metafile(self) -> Path:
        return self.root / "configs" / "metafile.yml"

    def call(self, *words: object) -> int:
        """Run the command line on it."""
        words = [*map(str, words), "--work-dirs", str(self.work_dirs)]
        return main(self.root, words)

    def config(self, row: str, **changes: object) -> Config:
        """A row's config, with changes as of --cfg-options."""
        cfg = Config.fromfile(self.root / "configs" / f"{row}.py")
        cfg.merge_from_dict(changes)
        return cfg

    def log(self, run: str, stamp: str, cfg: Config) -> Path:
        """The folder of one of a run's logs, with its config."""
        folder = self.work_dirs / run / stamp
        (folder / "vis_data").mkdir(parents=True)
        cfg.dump(folder / "vis_data" / "config.py")
        return folder

    def train(
        self,
        run: str,
        epochs: int,
        aps: list[float],
        row: str | None = None,
        stamp: str = "20260101_000000",
        begin: int = 0,
        **changes: object,
    ) -> Path:
        """Train a run from an epoch to another; ``aps`` are those of validations."""
        cfg = self.config(row or run, **changes)
        folder = self.log(run, stamp, cfg)
        lines = []
        for epoch, ap in zip(range(begin + 1, epochs + 1), aps, strict=True):
            for step in (10 * epoch - 5, 10 * epoch):
                line = dict(lr=1e-4, loss=1 / step, epoch=epoch, iter=step, step=step)
                lines.append(line)
            lines.append({"coco/bbox_mAP": ap, "time": 0.1, "step": epoch})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "vis_data" / "scalars.json").write_text(text)
        (folder / f"{stamp}.log").write_text(
            "01/01 - mmengine - INFO - Epoch(train)  [3][ 5/10]  lr: 1e-4  "
            "eta: 1 day, 2:03:04  time: 0.1  loss: 0.1\n"
        )
        checkpoint = self.work_dirs / run / f"epoch_{epochs}.pth"
        checkpoint.touch()
        # As of a folder that was moved.
        last = f"/elsewhere/{checkpoint.name}"
        (self.work_dirs / run / "last_checkpoint").write_text(last)
        return folder

    def test(
        self,
        run: str,
        metrics: dict[str, float],
        row: str | None = None,
        stamp: str = "20260102_000000",
        augmented: bool = False,
        checkpoint: str = "epoch_4.pth",
    ) -> Path:
        """Test a checkpoint of a run."""
        cfg = self.config(row or run)
        cfg.load_from = f"work_dirs/{run}/{checkpoint}"
        if augmented:
            cfg.model = dict(type="TTA", module=cfg.model)
        folder = self.log(run, stamp, cfg)
        (folder / f"{stamp}.json").write_text(json.dumps(metrics | {"time": 0.1}))
        return folder


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    root = tmp_path / "repository"
    (root / "configs").mkdir(parents=True)
    (root / "model-index.yml").write_text("Import: [configs/metafile.yml]\n")
    (root / "configs" / "metafile.yml").write_text(METAFILE)
    for name, pretraining in PRETRAINING.items():
        scope = "mmpretrain" if name == "tiny_in1k" else "mmdet"
        text = CONFIG.format(pretraining=pretraining, scope=scope)
        (root / "configs" / f"{name}.py").write_text(text)
    monkeypatch.chdir(root)
    return Suite(root, Path("work_dirs"))


@pytest.fixture
def scripts(suite: Suite) -> None:
    """Scripts in the suite's tools/ that leave what the real ones do: stub.py."""
    (suite.root / "tools").mkdir()
    stub = Path(__file__).with_name("stub.py")
    for name in ("dist_train", "dist_test", "slurm_train", "slurm_test"):
        path = suite.root / "tools" / f"{name}.sh"
        path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{stub}" "$0" "$@"\n')
        path.chmod(0o755)


@pytest.fixture
def report_of(suite: Suite) -> Callable[..., list[dict]]:
    """Reports on rows and returns the JSON."""

    def report(*words: object) -> list[dict]:
        path = suite.work_dirs / "report.json"
        assert suite.call("report", *words, "--json", path) == 0
        return json.loads(path.read_text())

    return report
