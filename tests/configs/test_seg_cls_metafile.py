"""The metafiles of segmentation and classification say what the configs say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from tools import model_zoo as zoo

ROOT = Path(__file__).parents[2]
TASKS = ("seg", "cls")
CLASSIFIERS = {path.stem for path in (ROOT / "configs" / "cls").rglob("*_224.py")}
NO_FIGURES = {
    "upernet_focal_fast_tiny_512x512_160k_ade20k",
    "focal_large_in22k_224",
    "focal_large_in22k_to_in1k_224",
    "focal_large_in22k_to_in1k_384",
    # Bars of figure 5 without a number.
    "focal_tiny_local_only_in1k_224",
    "focal_tiny_global_only_in1k_224",
}


def rows() -> list[dict]:
    return [
        model
        for task in TASKS
        for model in zoo.read_metafile(ROOT / "configs" / task / zoo.METAFILE)["Models"]
    ]


by_row = pytest.mark.parametrize("row", rows(), ids=lambda row: row["Name"])


def test_model_index_imports_every_metafile():
    imports = yaml.safe_load((ROOT / "model-index.yml").read_text())["Import"]
    found = [p.relative_to(ROOT).as_posix() for p in ROOT.glob("configs/*/*.yml")]
    assert sorted(imports) == sorted(found)


@by_row
def test_metadata_is_the_configs(row, backbone_name):
    config, metadata = Config.fromfile(ROOT / row["Config"]), row["Metadata"]
    assert config.train_cfg.get("max_epochs") == metadata.get("Epochs")
    assert config.train_cfg.get("max_iters") == metadata.get("Iterations")
    steps = config.train_dataloader.dataset.pipeline
    crops = [s.crop_size[0] for s in steps if s.type == "RandomCrop"]
    crops += [s.scale for s in steps if s.type == "RandomResizedCrop"]
    assert metadata["Training Resolution"] == "{0}x{0}".format(*crops)
    assert metadata["Backbone"] == backbone_name(config)
    pretraining = config.get("pretraining")
    data = None
    if pretraining:
        assert "://" in pretraining or pretraining in CLASSIFIERS
        data = "ImageNet-22K" if "22k" in pretraining else "ImageNet-1K"
    assert metadata.get("Pretraining Data") == data


@by_row
def test_figures_are_the_papers_and_stand_in_the_config(row):
    assert row["Metadata"]["Source"] == "paper"
    assert all(entry["Reference"] for entry in row.get("Results", []))
    figures = {f.metric: f.value for f in zoo.figures_of(row) if f.source == "paper"}
    assert bool(figures) == (row["Name"] not in NO_FIGURES)
    if not figures:
        return
    first = "mIoU" if row["Name"].startswith("upernet") else "Top-1"
    assert first in figures
    head = (ROOT / row["Config"]).read_text().split("_base_")[0]
    assert f"{figures[first]}" in head
    if "mIoU(ms)" in figures:
        assert f"{figures['mIoU(ms)']} multi-scale" in head
    scores = [value for name, value in figures.items() if "images/s" not in name]
    assert scores == sorted(set(scores))
    assert 40 < scores[0] <= scores[-1] < 100
    speeds = [value for name, value in figures.items() if "images/s" in name]
    assert speeds == sorted(speeds, reverse=True)


def test_larger_models_are_better_and_cost_more():
    by_name = {row["Name"]: row for row in rows()}
    families = (
        "focal_{}_in1k_224",
        "focal_{}_conv_in1k_224",
        "focal_fast_{}_in1k_224",
        "swin_{}_in1k_224",
        "upernet_focal_{}_512x512_160k_ade20k",
        "upernet_swin_{}_512x512_160k_ade20k",
    )
    for family in families:
        sizes = [by_name[family.format(size)] for size in ("tiny", "small", "base")]
        for key in ("Parameters", "FLOPs"):
            costs = [row["Metadata"][key] for row in sizes]
            assert costs == sorted(set(costs))
        leading = [next(zoo.figures_of(row)).value for row in sizes]
        assert leading == sorted(set(leading))
