"""The metafiles: complete, plausible, and what the READMEs show."""

import re
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import pytest
from mmengine.config import Config

from tools import model_zoo as zoo

ROOT = Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in (ROOT / "configs").glob("*/metafile.yml"))
CLASSIFIERS = {path.stem for path in (ROOT / "configs" / "cls").rglob("*_224.py")}
by_task = pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)

BOX = ("box AP", "box AP50", "box AP75")
BOX_BY_SIZE = (*BOX, "box APS", "box APM", "box APL")
MASK = ("mask AP", "mask AP50", "mask AP75")
# What the paper's tables have for each method and number of epochs.
COLUMNS = {
    ("RetinaNet", 12): ("box AP",),
    ("RetinaNet", 36): BOX_BY_SIZE,
    ("Mask R-CNN", 12): ("box AP", "mask AP"),
    ("Mask R-CNN", 36): (*BOX, *MASK),
    ("Cascade Mask R-CNN", 36): BOX,
    ("ATSS", 36): BOX,
    ("Sparse R-CNN", 36): BOX,
    ("RepPointsV2", 36): BOX,
    ("HTC++", 36): ("box AP", "mask AP", "box AP (ms)", "mask AP (ms)"),
    ("DyHead", 24): ("box AP", "box AP (ms)", "box AP50 (ms)", "box APL (ms)"),
}
TEST_DEV = {
    "HTC++": (
        "box AP (ms)",
        *(f"mask AP{kind} (ms)" for kind in ("", "50", "75", "S", "L")),
    ),
    "DyHead": ("box AP (ms)",),
}
SIZES = {
    "r": ("r50", "r101"),
    "x": ("x101_32x4d", "x101_64x4d"),
    "pvt": ("pvt_small", "pvt_medium", "pvt_large"),
    "swin": ("swin_tiny", "swin_small", "swin_base"),
    "focal": ("focal_tiny", "focal_small", "focal_base"),
}
"""By family: what the paper's tables 3 and 4 have, ViL aside."""
PLACE = re.compile(
    r"(arXiv )?table \d|figure \d|public leaderboard|README of the released code"
)
"""What may stand in Reference, and what selects a table's rows."""
# Rows of figure 5 of which the text gives nothing, or the box AP only.
BARS_ONLY = {
    "mask_rcnn_focal_tiny_local_only_1x": (),
    "mask_rcnn_focal_tiny_global_only_1x": (),
    "mask_rcnn_focal_tiny_window_only_1x": ("box AP",),
}


@pytest.fixture(scope="module")
def rows() -> dict[str, dict]:
    """The detection models that are rows of the paper, by name."""
    metafile = zoo.read_metafile(ROOT / "configs" / "det" / zoo.METAFILE)
    return {
        model["Name"]: model
        for model in metafile["Models"]
        if model["Metadata"]["Source"] != zoo.MEASURED
    }


def paper(row: dict, dataset: str = "COCO") -> dict[str, float]:
    figures = [f for f in zoo.figures_of(row) if f.dataset == dataset]
    return {f.metric: f.value for f in figures if f.source == "paper"}


def configs_of(folder: Path) -> Iterable[Path]:
    """The rows; examples are none."""
    places = ("*.py", "ablations/*.py", "baselines/*.py")
    return [path for place in places for path in folder.glob(place)]


@by_task
def test_rows_are_the_configs(folder):
    models = zoo.read_metafile(folder / zoo.METAFILE)["Models"]
    listed = [ROOT / model["Config"] for model in models]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(configs_of(folder))
    assert [model["Name"] for model in models] == [path.stem for path in listed]


@by_task
def test_readme_shows_the_metafile(folder, monkeypatch):
    # Config paths of a metafile start at the root.
    monkeypatch.chdir(ROOT)
    current = zoo.update_readme(folder.relative_to(ROOT), check=True)
    assert current, f"run python tools/model_zoo.py configs/{folder.name}"


@by_task
def test_model_index_library_reads_it(folder, monkeypatch):
    loader = pytest.importorskip(
        "modelindex.load_model_index", reason="the model-index package is missing"
    )
    monkeypatch.chdir(ROOT)
    index = loader.load(str(folder / zoo.METAFILE))
    # It looks for README beside the metafile; OpenMMLab's paths start at the root.
    errors = [line for line in index.check(silent=True) if "to README" not in line]
    assert errors == []
    for collection in index.collections:
        assert (ROOT / collection.readme).is_file()
    models = zoo.read_metafile(folder / zoo.METAFILE)["Models"]
    assert [model.name for model in index.models] == [m["Name"] for m in models]


def test_every_column_of_the_papers_tables(rows):
    for name, row in rows.items():
        method, epochs = row["In Collection"], row["Metadata"]["Epochs"]
        if "ablations" in method:
            expected = BARS_ONLY.get(name, ("box AP", "mask AP"))
        else:
            expected = COLUMNS[method, epochs]
            assert isinstance(row["Metadata"]["Parameters"], int), name
            assert isinstance(row["Metadata"]["FLOPs"], int), name
        assert set(paper(row)) == set(expected), name
        test_dev = paper(row, "COCO test-dev")
        assert set(test_dev) == set(TEST_DEV.get(method, ())), name


def test_every_method_and_size_of_the_papers_tables(rows):
    found = {(row["In Collection"], row["Metadata"]["Epochs"]) for row in rows.values()}
    assert found >= set(COLUMNS)
    backbones = [name for family in SIZES.values() for name in family]
    of_table_5 = ("cascade_mask_rcnn", "atss", "sparse_rcnn", "reppointsv2")
    expected = [
        *product(("retinanet", "mask_rcnn"), backbones, ("1x", "3x")),
        *product(of_table_5, ("r50", "swin_tiny", "focal_tiny"), ["3x"]),
    ]
    assert {"_".join(parts) for parts in expected} <= set(rows)


def test_figures_say_where_they_are_from(rows):
    for name, row in rows.items():
        assert row["Metadata"]["Source"] == "paper", name
        for entry in row.get("Results", []):
            if entry.get("Source") != zoo.MEASURED:
                for place in entry["Reference"].split("; "):
                    assert PLACE.fullmatch(place), name


def test_average_precisions_are_ordered_as_they_must_be(rows):
    for name, row in rows.items():
        for dataset in ("COCO", "COCO test-dev"):
            ap = paper(row, dataset)
            for low, high in (
                ("mask AP", "box AP"),
                ("mask AP (ms)", "box AP (ms)"),
                ("box AP", "box AP (ms)"),
                ("mask AP", "mask AP (ms)"),
                ("box AP", "box AP75"),
                ("box AP75", "box AP50"),
                ("mask AP", "mask AP75"),
                ("mask AP75", "mask AP50"),
                ("mask AP (ms)", "mask AP75 (ms)"),
                ("mask AP75 (ms)", "mask AP50 (ms)"),
                ("mask APS (ms)", "mask APL (ms)"),
                ("box AP (ms)", "box APL (ms)"),
                ("box APL (ms)", "box AP50 (ms)"),
                ("mask AP50", "box AP50"),
                ("box APS", "box APM"),
                ("box APM", "box APL"),
            ):
                if low in ap and high in ap:
                    assert 0 < ap[low] < ap[high] < 100, (name, low, high)


def test_rows_compare_as_the_paper_says(rows):
    """Focal beats Swin and costs more, as larger backbones do; 3x beats 1x."""
    costs = ("Parameters", "FLOPs")
    for method in ("retinanet", "mask_rcnn"):
        for backbone in (name for family in SIZES.values() for name in family):
            once, thrice = (rows[f"{method}_{backbone}_{s}"] for s in ("1x", "3x"))
            assert paper(once)["box AP"] < paper(thrice)["box AP"]
            for cost in costs:
                assert once["Metadata"][cost] == thrice["Metadata"][cost]
        for cost, family in product(costs, SIZES.values()):
            found = [rows[f"{method}_{name}_1x"]["Metadata"][cost] for name in family]
            assert found == sorted(set(found))
        for swin, focal in zip(SIZES["swin"], SIZES["focal"], strict=True):
            for schedule in ("1x", "3x"):
                pair = [rows[f"{method}_{name}_{schedule}"] for name in (swin, focal)]
                assert paper(pair[0])["box AP"] < paper(pair[1])["box AP"]
                for cost in costs:
                    assert pair[0]["Metadata"][cost] < pair[1]["Metadata"][cost]


def test_metadata_is_the_configs(rows, backbone_name):
    for name, row in rows.items():
        cfg, metadata = Config.fromfile(ROOT / row["Config"]), row["Metadata"]
        assert cfg.train_cfg.max_epochs == metadata["Epochs"], name
        assert metadata["Backbone"] == backbone_name(cfg), name
        # A classifier of the suite, or public weights.
        assert "://" in cfg.pretraining or cfg.pretraining in CLASSIFIERS, name
        data = "ImageNet-22K" if "22k" in cfg.pretraining else "ImageNet-1K"
        assert metadata["Pretraining Data"] == data, name
