from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo import make_toy_data
from demo.toy.imagefolder import ImageFolderSpec, write_imagefolder
from demo.toy.shapes import CLASSES, draw_shape

SPEC = ImageFolderSpec(num_train=7, num_val=3, size=40, seed=5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "data"
    assert write_imagefolder(folder, SPEC)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.png"))
    }


def test_same_spec_same_bytes_other_seed_others(data: Path, tmp_path: Path) -> None:
    write_imagefolder(tmp_path / "again", SPEC)
    assert digests(tmp_path / "again") == digests(data)
    write_imagefolder(tmp_path / "other", replace(SPEC, seed=6))
    assert not digests(tmp_path / "other").items() & digests(data).items()
    assert len(set(digests(data).values())) == SPEC.num_train + SPEC.num_val


def test_folders_and_lists_agree(data: Path) -> None:
    """As two data sets of mmpretrain read them."""
    from mmengine.registry import DATASETS, DefaultScope

    with DefaultScope.overwrite_default_scope("mmpretrain"):
        for split, count in (("train", 7), ("val", 3)):
            by_folder = DATASETS.build(
                dict(type="CustomDataset", data_root=str(data), data_prefix=split)
            )
            by_list = DATASETS.build(
                dict(type="ImageNet", data_root=str(data), split=split)
            )
            assert by_folder.metainfo["classes"] == CLASSES
            found = [
                sorted((Path(s["img_path"]).resolve(), s["gt_label"]) for s in dataset)
                for dataset in (by_folder, by_list)
            ]
            assert found[0] == found[1]
            assert len(found[0]) == count
            for path, label in found[0]:
                assert path.parent.name == CLASSES[label]
                assert cv2.imread(str(path)).shape == (40, 40, 3)


def test_outline_is_the_class() -> None:
    """Areas of shapes over those of the circles around them."""
    expected = {"circle": 1.0, "square": 0.64, "triangle": 0.41}
    for label, name in enumerate(CLASSES):
        for seed in range(5):
            image = draw_shape(np.random.default_rng(seed), 120, label)
            smooth = cv2.blur(image, (3, 3))
            saturation = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)[..., 1]
            shape = (saturation > 90).astype(np.uint8)
            contours, _ = cv2.findContours(
                shape, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
            )
            hull = cv2.convexHull(max(contours, key=cv2.contourArea))
            _, radius = cv2.minEnclosingCircle(hull)
            share = cv2.contourArea(hull) / (np.pi * radius**2)
            assert abs(share - expected[name]) < 0.12, (name, seed)


def test_hues_tell_classes_apart_on_request() -> None:
    def hue(label: int, seed: int, class_hues: bool) -> float:
        image = draw_shape(np.random.default_rng(seed), 64, label, class_hues)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        inside = hsv[..., 1] > 150
        angles = hsv[..., 0][inside] * np.pi / 90
        return np.angle(np.exp(1j * angles).mean()) * 3 / (2 * np.pi) % 3

    for label in range(len(CLASSES)):
        own = [hue(label, seed, True) for seed in range(8)]
        assert all(min(abs(h - label), 3 - abs(h - label)) < 0.5 for h in own)
    free = np.array([hue(0, seed, False) for seed in range(8)])
    assert ((free > 0.5) & (free < 2.5)).any()


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    command = ["imagefolder", str(folder), "--num-train", "3", "--num-val", "3"]
    assert make_toy_data.main(command) == 0
    assert len(list(folder.rglob("*.png"))) == 6
    assert make_toy_data.main(command) == 0
    assert "kept" in capsys.readouterr().out
    assert make_toy_data.main([*command, "--seed", "1"]) == 1
    assert "seed 0 instead of 1" in capsys.readouterr().err
