from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from demo import make_toy_data
from demo.toy import coco
from demo.toy.coco import CocoSpec, write_coco
from demo.toy.folder import SPEC_FILE
from demo.toy.shapes import CLASSES

SPEC = CocoSpec(num_train=4, num_val=3, seed=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "data"
    assert write_coco(folder, SPEC)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def load(data: Path, split: str) -> COCO:
    return COCO(data / f"annotations/instances_{split}2017.json")


def test_same_spec_same_bytes(data: Path, tmp_path: Path) -> None:
    write_coco(tmp_path / "again", SPEC)
    assert digests(tmp_path / "again") == digests(data)


def test_other_seed_other_annotations(data: Path, tmp_path: Path) -> None:
    write_coco(tmp_path / "other", replace(SPEC, seed=6))
    name = "annotations/instances_val2017.json"
    assert digests(tmp_path / "other")[name] != digests(data)[name]


def test_no_image_is_in_both_splits(data: Path) -> None:
    images = [file for file in digests(data).items() if file[0].endswith(".png")]
    assert len(images) == SPEC.num_train + SPEC.num_val
    assert len({digest for _, digest in images}) == len(images)


@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_agree_with_their_masks(data: Path, split: str) -> None:
    found = load(data, split)
    assert [c["name"] for c in found.loadCats(found.getCatIds())] == list(CLASSES)
    assert len(found.imgs) == getattr(SPEC, f"num_{split}")
    for image_id, image in found.imgs.items():
        assert (data / f"{split}2017" / image["file_name"]).is_file()
        covered = np.zeros((image["height"], image["width"]), int)
        annotations = found.loadAnns(found.getAnnIds(image_id))
        assert annotations
        for annotation in annotations:
            mask = found.annToMask(annotation)
            covered += mask
            rows, columns = np.nonzero(mask)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == [
                columns.min(),
                rows.min(),
                np.ptp(columns) + 1,
                np.ptp(rows) + 1,
            ]
        assert covered.max() == 1


def test_mmdet_reads_the_masks(data: Path) -> None:
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = CocoDataset(
            data_root=str(data),
            ann_file="annotations/instances_val2017.json",
            data_prefix=dict(img="val2017/"),
            metainfo=dict(classes=CLASSES),
            pipeline=[
                dict(type="LoadImageFromFile"),
                dict(type=LoadAnnotations, with_bbox=True, with_mask=True),
                dict(type=PackDetInputs),
            ],
        )
        assert len(dataset) == SPEC.num_val
        truth = dataset[0]["data_samples"].gt_instances
    found = load(data, "val")
    annotations = found.loadAnns(found.getAnnIds(1))
    expected = np.stack([found.annToMask(a) for a in annotations])
    assert np.array_equal(truth.masks.masks, expected)
    labels = [a["category_id"] - 1 for a in annotations]
    assert truth.labels.tolist() == labels


def test_the_same_data_set_is_kept(data: Path) -> None:
    before = [file.stat().st_mtime_ns for file in sorted(data.rglob("*"))]
    assert not write_coco(data, SPEC)
    assert [file.stat().st_mtime_ns for file in sorted(data.rglob("*"))] == before


def test_another_data_set_is_not_overwritten(data: Path) -> None:
    before = digests(data)
    with pytest.raises(FileExistsError, match="seed 5 instead of 6: choose"):
        write_coco(data, replace(SPEC, seed=6))
    assert digests(data) == before


@pytest.mark.parametrize("spec", [None, "not json", "[]"])
def test_a_folder_of_the_user_is_not_overwritten(
    tmp_path: Path, spec: str | None
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    if spec is not None:
        (tmp_path / SPEC_FILE).write_text(spec)
    before = digests(tmp_path)
    with pytest.raises(FileExistsError, match="choose another folder"):
        write_coco(tmp_path, SPEC)
    assert digests(tmp_path) == before


def test_an_empty_folder_is_used(tmp_path: Path) -> None:
    assert write_coco(tmp_path, replace(SPEC, num_train=1, num_val=1))
    assert (tmp_path / SPEC_FILE).is_file()


def test_an_interrupted_call_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(coco, "draw_scene", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_coco(tmp_path / "data", SPEC)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "change", [dict(num_train=0), dict(num_val=0), dict(size=100), dict(seed=-1)]
)
def test_a_spec_out_of_range_is_an_error(change: dict[str, int]) -> None:
    (name,) = change
    with pytest.raises(ValueError, match=f"{name} must be at least"):
        replace(SPEC, **change)


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    command = ["coco", str(folder), "--num-train", "1", "--num-val", "1"]
    assert make_toy_data.main([*command, "--seed", "7"]) == 0
    assert json.loads((folder / SPEC_FILE).read_text())["seed"] == 7
    assert make_toy_data.main([*command, "--seed", "8"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "seed 7 instead of 8" in error
