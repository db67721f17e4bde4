"""Missing files are named before anything is built."""

from pathlib import Path

import pytest
from mmengine.config import Config

from focal_mm.engine.checks import check_test, check_train, preflight
from focal_mm.engine.errors import UserError

CONFIG = Path(__file__).parents[3] / "configs" / "det" / "mask_rcnn_focal_tiny_3x.py"


@pytest.fixture(autouse=True)
def _only_preflight(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows has tests of its own."""
    monkeypatch.setattr(preflight, "check_model", lambda cfg: None)
    monkeypatch.setattr(preflight, "check_data", lambda cfg, datasets: [])


@pytest.fixture
def coco_config(tmp_path, monkeypatch) -> Config:
    """The Mask R-CNN config in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    cfg = Config.fromfile(CONFIG)
    cfg.work_dir, cfg.load_from = "work", None
    return cfg


def make_coco(root: Path, splits: tuple[str, ...]) -> None:
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split in splits:
        (root / f"{split}2017").mkdir()
        (root / "annotations" / f"instances_{split}2017.json").touch()


def line_of(function, *args) -> str:
    with pytest.raises(UserError) as caught:
        function(*args)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_missing_coco_names_paths_and_keys(coco_config):
    line = line_of(check_train, coco_config)
    for part in (
        "data/coco/annotations/instances_train2017.json",
        "data/coco/annotations/instances_val2017.json",
        "data/coco/train2017/",
        "data/coco/val2017/",
        "train_dataloader.dataset.data_root",
        "val_dataloader.dataset.data_root",
        "val_evaluator.ann_file",
    ):
        assert part in line


def test_complete_coco_passes_and_leaves_no_trace(coco_config, tmp_path):
    make_coco(tmp_path / "data" / "coco", ("train", "val"))
    check_train(coco_config)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_testing_needs_the_test_set_only(coco_config, tmp_path):
    make_coco(tmp_path / "data" / "coco", ("val",))
    (tmp_path / "model.pth").touch()
    coco_config.load_from = "model.pth"
    check_test(coco_config)
    assert "train2017" in line_of(check_train, coco_config)


def test_moving_the_data_but_not_the_metric_is_noticed(coco_config, tmp_path):
    make_coco(tmp_path / "elsewhere", ("train", "val"))
    for split in ("train", "val"):
        coco_config[f"{split}_dataloader"].dataset.data_root = "elsewhere"
    line = line_of(check_train, coco_config)
    assert "val_evaluator.ann_file" in line
    assert "data_root" not in line


def test_training_without_validation_needs_no_validation_set(coco_config, tmp_path):
    make_coco(tmp_path / "data" / "coco", ("train",))
    coco_config.val_cfg = None
    check_train(coco_config)


@pytest.mark.parametrize(
    ("wrap", "key"),
    [
        (lambda leaf: dict(type="RepeatDataset", dataset=leaf), "dataset.dataset"),
        (
            lambda leaf: dict(type="ConcatDataset", datasets=[leaf]),
            "dataset.datasets.0",
        ),
        (
            lambda leaf: dict(
                type="MultiImageMixDataset",
                dataset=dict(type="ConcatDataset", datasets=[leaf]),
            ),
            "dataset.dataset.datasets.0",
        ),
    ],
)
def test_wrapped_data_sets(coco_config, wrap, key):
    loader = coco_config.train_dataloader
    loader.dataset = wrap(loader.dataset)
    line = line_of(check_train, coco_config)
    assert f"train_dataloader.{key}.data_root" in line


@pytest.mark.parametrize(
    ("dataset", "missing"),
    [
        (
            dict(data_root="ade", data_prefix=dict(img_path="img", seg_map_path="ann")),
            "ade/ann (seen",
        ),
        (dict(data_root="imagenet", split="train"), "imagenet (seen"),
        (dict(data_root="ade", data_prefix="train"), "ade/train (seen"),
        (
            dict(ann_file="/nowhere/list.txt"),
            "change train_dataloader.dataset.ann_file",
        ),
    ],
)
def test_data_sets_of_other_libraries(tmp_path, monkeypatch, dataset, missing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ade" / "img").mkdir(parents=True)
    cfg = Config(
        dict(model=dict(), work_dir="w", train_dataloader=dict(dataset=dataset))
    )
    assert missing in line_of(check_train, cfg)


def test_missing_stuff_maps_are_named(coco_config, tmp_path):
    """As the semantic branch of HTC needs them."""
    make_coco(tmp_path / "data" / "coco", ("train", "val"))
    dataset = coco_config.train_dataloader.dataset
    dataset.data_prefix.seg = "stuffthingmaps/train2017/"
    line = line_of(check_train, coco_config)
    assert "data not found: data/coco/stuffthingmaps/train2017/ (seen" in line
    (tmp_path / "data/coco/stuffthingmaps/train2017").mkdir(parents=True)
    check_train(coco_config)


def test_remote_data_is_left_alone(coco_config):
    remote = "s3://bucket/coco/"
    for split in ("train", "val"):
        coco_config[f"{split}_dataloader"].dataset.data_root = remote
    coco_config.val_evaluator.ann_file = f"{remote}annotations/instances_val2017.json"
    check_train(coco_config)

    coco_config.train_dataloader.dataset.update(
        data_root="lmdb", backend_args=dict(backend="lmdb")
    )
    check_train(coco_config)


def test_missing_checkpoints(coco_config):
    coco_config.load_from = "gone.pth"
    assert "load_from: there is no checkpoint gone.pth" in line_of(
        check_train, coco_config
    )
    coco_config.load_from = None
    coco_config.model.backbone.init_cfg = dict(type="Pretrained", checkpoint="x.pth")
    assert "model.backbone.init_cfg.checkpoint: there is no checkpoint x.pth" in (
        line_of(check_train, coco_config)
    )
    coco_config.model.backbone.init_cfg.checkpoint = "https://example.org/x.pth"
    assert "data not found" in line_of(check_train, coco_config)


def test_mixed_precision_needs_a_gpu(coco_config, monkeypatch):
    coco_config.optim_wrapper.type = "AmpOptimWrapper"
    monkeypatch.setattr(preflight, "get_device", lambda: "cuda")
    assert "data not found" in line_of(check_train, coco_config)
    monkeypatch.setattr(preflight, "get_device", lambda: "cpu")
    assert "mixed precision" in line_of(check_train, coco_config)


def test_work_dir_that_is_a_file(coco_config, tmp_path):
    (tmp_path / "work").touch()
    assert "--work-dir" in line_of(check_train, coco_config)


def test_missing_task_library(coco_config, monkeypatch):
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    assert "focal_mm[det]" in line_of(check_train, coco_config)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda transform: transform,
        lambda transform: dict(
            type="RandomChoice", transforms=[[dict(type="Resize")], [transform]]
        ),
        lambda transform: dict(
            type="RandomApply",
            transforms=dict(type="RandomOrder", transforms=[transform]),
        ),
    ],
    ids=["plain", "nested lists", "nested dicts"],
)
@pytest.mark.parametrize(
    "name", ["InstaBoost", "mmdet.InstaBoost", "ManyContoursInstaBoost"]
)
def test_transform_without_its_package(coco_config, monkeypatch, tmp_path, wrap, name):
    make_coco(tmp_path / "data" / "coco", ("train", "val"))
    loader = coco_config.train_dataloader
    loader.dataset.pipeline.insert(1, wrap(dict(type=name)))
    loader.dataset = dict(type="RepeatDataset", dataset=loader.dataset)
    found = preflight.importlib.util.find_spec

    def find_spec(package: str, installed: bool):
        is_mmdet = package != "instaboostfast"
        return found(package) if is_mmdet else (object() if installed else None)

    for installed in (True, False):
        monkeypatch.setattr(
            preflight.importlib.util,
            "find_spec",
            lambda package, installed=installed: find_spec(package, installed),
        )
        if installed:
            check_train(coco_config)
    line = line_of(check_train, coco_config)
    assert f"train_dataloader uses {name.split('.')[-1]}" in line
    assert "focal_mm[instaboost]" in line
