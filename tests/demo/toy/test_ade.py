from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo import make_toy_data
from demo.toy import shapes
from demo.toy.ade import CLASSES, UNLABELLED, AdeSpec, draw_regions, write_ade
from demo.toy.folder import SPEC_FILE

SPEC = AdeSpec(num_train=6, num_val=3, size=64, seed=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "data"
    assert write_ade(folder, SPEC)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def test_layout_is_that_of_ade20k(data: Path) -> None:
    for folder, count in (("training", 6), ("validation", 3)):
        images = sorted((data / "images" / folder).glob("*.jpg"))
        labels = sorted((data / "annotations" / folder).glob("*.png"))
        assert len(images) == count
        assert [p.stem for p in images] == [p.stem for p in labels]
        for image, label in zip(images, labels, strict=True):
            assert cv2.imread(str(image)).shape == (64, 64, 3)
            assert cv2.imread(str(label), cv2.IMREAD_UNCHANGED).shape == (64, 64)


def test_same_spec_same_bytes_other_seed_others(data: Path, tmp_path: Path) -> None:
    write_ade(tmp_path / "again", SPEC)
    assert digests(tmp_path / "again") == digests(data)
    write_ade(tmp_path / "other", replace(SPEC, seed=6))
    same = digests(tmp_path / "other").items() & digests(data).items()
    assert not same
    files = [d for name, d in digests(data).items() if name != SPEC_FILE]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("size", [48, 200])
def test_regions(size: int) -> None:
    scenes = [draw_regions(np.random.default_rng(seed), size) for seed in range(12)]
    found = np.zeros(1 + len(CLASSES), int)
    for image, labels in scenes:
        assert image.shape == (size, size, 3)
        assert labels.shape == (size, size)
        assert image.dtype == labels.dtype == np.uint8
        present = np.unique(labels)
        assert set(present) <= set(range(1 + len(CLASSES)))
        # Lines between regions are unlabelled: no two labels touch.
        assert UNLABELLED in present
        for one, other in ((labels[1:], labels[:-1]), (labels.T[1:], labels.T[:-1])):
            touching = (one != other) & (one != UNLABELLED) & (other != UNLABELLED)
            assert not touching.any()
        found[present] += 1
        # The sky is bluer than the ground, and above it.
        sky, ground = (labels == 1 + CLASSES.index(name) for name in ("sky", "ground"))
        if sky.any() and ground.any():
            blueness = image[..., 2].astype(float) - image[..., 0]
            assert blueness[sky].mean() > blueness[ground].mean() + 10
            assert np.nonzero(sky)[0].mean() < np.nonzero(ground)[0].mean()
    assert found.min() >= 3


def test_labels_lie_on_their_shapes() -> None:
    """Each class has its hue, a third of the circle apart (180 in OpenCV)."""
    for seed in range(10):
        image, labels = draw_regions(np.random.default_rng(seed), 200)
        hues = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 0].astype(float)
        for index, name in enumerate(shapes.CLASSES):
            inside = labels == 1 + CLASSES.index(name)
            inside = cv2.erode(inside.astype(np.uint8), np.ones((5, 5), np.uint8))
            if inside.sum() > 50:
                off = (hues[inside.astype(bool)] - 60 * index + 90) % 180 - 90
                assert np.median(np.abs(off)) < 35, (seed, name)


def test_mmseg_ignores_what_is_unlabelled(data: Path) -> None:
    from mmengine.registry import DATASETS, DefaultScope

    config = dict(
        type="BaseSegDataset",
        data_root=str(data),
        data_prefix=dict(
            img_path="images/validation", seg_map_path="annotations/validation"
        ),
        metainfo=dict(classes=CLASSES),
        reduce_zero_label=True,
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")],
    )
    with DefaultScope.overwrite_default_scope("mmseg"):
        dataset = DATASETS.build(config)
        assert len(dataset) == SPEC.num_val
        sample = dataset[0]
    stored = cv2.imread(sample["seg_map_path"], cv2.IMREAD_UNCHANGED)
    read = sample["gt_seg_map"]
    assert np.array_equal(read == 255, stored == UNLABELLED)
    labelled = stored != UNLABELLED
    assert np.array_equal(read[labelled] + 1, stored[labelled])
    assert read[labelled].max() < len(CLASSES)


def test_the_same_data_set_is_kept_and_another_is_not_overwritten(data: Path) -> None:
    before = digests(data)
    assert not write_ade(data, SPEC)
    with pytest.raises(FileExistsError, match="size 64 instead of 96: choose"):
        write_ade(data, replace(SPEC, size=96))
    assert digests(data) == before


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    command = ["ade", str(folder), "--num-train", "1", "--num-val", "1"]
    assert make_toy_data.main([*command, "--size", "48"]) == 0
    assert len(list(folder.rglob("*.jpg"))) == 2
    assert make_toy_data.main([*command, "--size", "47"]) == 1
    assert "size must be at least 48, got 47" in capsys.readouterr().err
