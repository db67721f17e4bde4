"""The data sets, as the task libraries read them, and that they are whole or not."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.registry import DATASETS, DefaultScope
from pycocotools.coco import COCO

from demo.toy import formats
from demo.toy.__main__ import main
from demo.toy.folder import SPEC_FILE
from demo.toy.formats import AdeSpec, CocoSpec, ImageFolderSpec
from demo.toy.shapes import CLASSES
from focal_mm.engine.errors import UserError

FORMATS = {
    "coco": CocoSpec(4, 3, seed=5),
    "ade": AdeSpec(6, 3, 64, seed=5),
    "imagefolder": ImageFolderSpec(7, 3, 40, seed=5),
}
SPEC = FORMATS["coco"]
each_format = pytest.mark.parametrize("name", FORMATS)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds a data set of each format in a folder of its name."""
    root = tmp_path_factory.mktemp("toy")
    for name, spec in FORMATS.items():
        assert spec.write(root / name)
    return root


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@each_format
def test_same_spec_same_bytes_other_seed_others(
    data: Path, tmp_path: Path, name: str
) -> None:
    spec = FORMATS[name]
    written = digests(data / name)
    spec.write(tmp_path / "again")
    assert digests(tmp_path / "again") == written
    replace(spec, seed=6).write(tmp_path / "other")
    other = digests(tmp_path / "other")
    images = [file for file in written if file.endswith((".png", ".jpg"))]
    assert not any(other.get(file) == written[file] for file in images)
    # No image is in both splits.
    assert len({written[file] for file in images}) == len(images)


@each_format
def test_the_same_is_kept_and_another_is_not_overwritten(data: Path, name: str) -> None:
    spec = FORMATS[name]
    before = [file.stat().st_mtime_ns for file in sorted(data.rglob("*"))]
    assert not spec.write(data / name)
    with pytest.raises(UserError, match=r"seed=5\), not .* seed=6\): choose another"):
        replace(spec, seed=6).write(data / name)
    assert [file.stat().st_mtime_ns for file in sorted(data.rglob("*"))] == before


def test_a_folder_of_the_user_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="holds other files, not CocoSpec"):
        SPEC.write(tmp_path)
    with pytest.raises(UserError, match=r"thesis.txt cannot be written"):
        SPEC.write(tmp_path / "thesis.txt")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_an_interrupted_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    draw: Callable = formats.draw_scene
    scenes = []

    def draw_two(rng: np.random.Generator, size: int):
        if len(scenes) == 2:
            raise error
        scenes.append(draw(rng, size))
        return scenes[-1]

    monkeypatch.setattr(formats, "draw_scene", draw_two)
    with pytest.raises((KeyboardInterrupt, UserError)):
        SPEC.write(tmp_path / "data")
    assert len(scenes) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [dict(num_train=0), dict(num_val=0), dict(size=191), dict(seed=-1)]
)
def test_a_spec_out_of_range_is_an_error(change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(UserError, match=f"{name} must be at least"):
        replace(SPEC, **change)


@each_format
def test_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    command = [name, str(tmp_path / "new"), "--num-train", "1", "--num-val", "1"]
    spec = replace(FORMATS[name], num_train=1, num_val=1, seed=7)
    size = ["--size", str(spec.size)]
    assert main([*command, *size, "--seed", "7"]) == 0
    assert (tmp_path / "new" / SPEC_FILE).read_text() == str(spec)
    assert main([*command, *size, "--seed", "7"]) == 0
    assert "kept what was there" in capsys.readouterr().out
    assert main([*command, "--seed", "8"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("demo.toy: ")


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco_annotations_agree_with_their_masks(data: Path, split: str) -> None:
    found = COCO(data / f"coco/annotations/instances_{split}2017.json")
    assert [c["name"] for c in found.loadCats(found.getCatIds())] == list(CLASSES)
    assert len(found.imgs) == getattr(SPEC, f"num_{split}")
    for image_id, image in found.imgs.items():
        assert (data / f"coco/{split}2017" / image["file_name"]).is_file()
        annotations = found.loadAnns(found.getAnnIds(image_id))
        masks = [found.annToMask(annotation) for annotation in annotations]
        assert np.sum(masks, axis=0).max() == 1
        for annotation, mask in zip(annotations, masks, strict=True):
            rows, columns = np.nonzero(mask)
            corner = [columns.min(), rows.min()]
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == [
                *corner,
                np.ptp(columns) + 1,
                np.ptp(rows) + 1,
            ]


def test_mmdet_reads_masks_and_labels(data: Path) -> None:
    config = dict(
        type="CocoDataset",
        data_root=str(data / "coco"),
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        metainfo=dict(classes=CLASSES),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
            dict(type="PackDetInputs"),
        ],
    )
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(config)
        assert len(dataset) == SPEC.num_val
        truth = dataset[0]["data_samples"].gt_instances
    scene = formats.draw_scene(np.random.default_rng((SPEC.seed, 1, 1)), SPEC.size)
    assert np.array_equal(truth.masks.masks, scene.masks)
    assert truth.labels.tolist() == scene.labels


def test_mmseg_ignores_what_is_unlabelled(data: Path) -> None:
    config = dict(
        type="BaseSegDataset",
        data_root=str(data / "ade"),
        data_prefix=dict(
            img_path="images/validation", seg_map_path="annotations/validation"
        ),
        metainfo=dict(classes=formats.REGIONS),
        reduce_zero_label=True,
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")],
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = DATASETS.build(config)
        assert len(dataset) == 3
        sample = dataset[0]
    stored = cv2.imread(sample["seg_map_path"], cv2.IMREAD_UNCHANGED)
    assert stored.shape == cv2.imread(sample["img_path"]).shape[:2] == (64, 64)
    labelled = stored != formats.UNLABELLED
    read = sample["gt_seg_map"]
    assert (read[~labelled] == 255).all()
    assert np.array_equal(read[labelled] + 1, stored[labelled])
    assert read[labelled].max() < len(formats.REGIONS)


def test_mmpretrain_reads_folders_and_lists_alike(data: Path) -> None:
    root = str(data / "imagefolder")
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        for split, count in (("train", 7), ("val", 3)):
            by_folder = DATASETS.build(
                dict(type="CustomDataset", data_root=root, data_prefix=split)
            )
            by_list = DATASETS.build(dict(type="ImageNet", data_root=root, split=split))
            assert by_folder.metainfo["classes"] == CLASSES
            found, listed = (
                sorted((Path(s["img_path"]).resolve(), s["gt_label"]) for s in dataset)
                for dataset in (by_folder, by_list)
            )
            assert found == listed
            assert len(found) == count
            assert all(path.parent.name == CLASSES[label] for path, label in found)
