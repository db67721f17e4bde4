"""Any row on one's own data, by --cfg-options: the recipe of configs/det/README.md."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from demo.toy.shapes import CLASSES
from focal_mm.engine.checks import check_train
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError
from focal_mm.engine.options import Parser, add_cfg_options

ROOT = Path(__file__).parents[2]
DET = ROOT / "configs" / "det"
# One row for each detector.
ROWS = (
    "retinanet_focal_tiny_3x",
    "mask_rcnn_focal_tiny_3x",
    "cascade_mask_rcnn_focal_tiny_3x",
    "atss_focal_tiny_3x",
    "sparse_rcnn_focal_tiny_3x",
    "reppointsv2_focal_tiny_3x",
    "htc_plusplus_focal_large_3x",
    "atss_dyhead_focal_large_2x",
)


def options_of_readme(name: str) -> list[str]:
    """A bash array of options in the README, as the shell splits it."""
    text = (DET / "README.md").read_text()
    (block,) = re.findall(rf"^{name}=\((.*?)^\)", text, re.MULTILINE | re.DOTALL)
    return shlex.split(block)


@pytest.fixture
def own_data(toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data laid out as in the recipe."""
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data" / "mine"
    data.mkdir(parents=True)
    for split in ("train", "val"):
        (data / split).symlink_to(toy_data / f"{split}2017")
        annotations = toy_data / "annotations" / f"instances_{split}2017.json"
        (data / f"{split}.json").symlink_to(annotations)
    (data / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def load(row: str, options: list[str]) -> Config:
    parser = Parser()
    add_cfg_options(parser)
    args = parser.parse_args(["--cfg-options", *options])
    cfg = load_config(DET / f"{row}.py", args.cfg_options)
    cfg.work_dir = "work"
    # Neither is about the data: large rows need a GPU, HTC++ a package of its own.
    cfg.optim_wrapper.type = "OptimWrapper"
    pipeline = cfg.train_dataloader.dataset.pipeline
    pipeline[:] = [step for step in pipeline if "InstaBoost" not in step.type]
    return cfg


@pytest.mark.parametrize("row", ROWS)
def test_recipe_asks_for_the_heads_and_then_is_complete(row, own_data):
    options = options_of_readme("MINE")
    if row.startswith("htc"):
        options += options_of_readme("NO_STUFF")
    with pytest.raises(UserError, match="has 3 classes") as caught:
        check_train(load(row, options))
    heads = shlex.split(str(caught.value).partition("--cfg-options ")[2])
    cfg = load(row, [*options, *heads])
    check_train(cfg)

    # The heads, asked themselves; the backbone has nothing to do with classes.
    cfg.model.backbone = dict(
        type="FocalTransformer",
        arch=dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)),
    )
    init_default_scope("mmdet")
    modules = MODELS.build(cfg.model).named_modules()
    predicted = [
        module.num_classes
        for name, module in modules
        if hasattr(module, "num_classes") and not name.endswith("rpn_head")
    ]
    assert len(predicted) >= len(heads) > 0
    assert set(predicted) == {len(CLASSES)}


@pytest.mark.slow
def test_training_and_evaluation_on_own_data(own_data):
    def train(*heads: str) -> subprocess.CompletedProcess:
        small = [
            *("train_cfg.max_epochs=2", "train_dataloader.dataset.indices=2"),
            "train_dataloader.dataset.pipeline.2.transforms.0.0.scale=(192,128)",
            "val_dataloader.dataset.pipeline.1.scale=(192,128)",
            *("train_dataloader.num_workers=0", "val_dataloader.num_workers=0"),
            "train_dataloader.persistent_workers=False",
            "val_dataloader.persistent_workers=False",
            *("default_hooks.checkpoint.interval=9", "default_hooks.logger.interval=1"),
            "default_hooks.checkpoint.save_last=False",
            "default_hooks.checkpoint.save_best=None",
        ]
        return subprocess.run(
            [
                *(sys.executable, ROOT / "tools" / "train.py"),
                DET / "mask_rcnn_focal_tiny_1x.py",
                *("--cfg-options", *options_of_readme("MINE"), *small, *heads),
            ],
            env=os.environ | {"CUDA_VISIBLE_DEVICES": "-1"},
            capture_output=True,
            text=True,
            timeout=600,
        )

    stopped = train()
    assert stopped.returncode == 1
    assert stopped.stderr.count("train.py: ") == 1
    line = stopped.stderr[stopped.stderr.index("train.py: ") :]
    done = train(*shlex.split(line.partition("--cfg-options ")[2]))
    assert done.returncode == 0, done.stderr[-3000:]
    log = done.stdout + done.stderr
    losses = [float(value) for value in re.findall(r" loss: ([\d.]+|nan|inf)", log)]
    assert len(losses) == 2
    assert all(0 < loss < 100 for loss in losses)
    assert len(re.findall(r"coco/segm_mAP: ", log)) == 2
