"""Data sets that are sound, for tests to break."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from PIL import Image

CLASSES = ["circle", "square", "triangle"]
WIDTH, HEIGHT = 40, 30


def write_image(path: Path, size: tuple[int, int] = (WIDTH, HEIGHT)) -> None:
    """Random pixels of (width, height), which do not compress."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(path.name))
    pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(autouse=True)
def _no_logger_of_other_tests() -> None:
    """A runner's logger outlives it, and has found the streams of its test."""
    MMLogger._instance_dict.clear()


@pytest.fixture
def coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Config]:
    """Writes four images and annotations into data/ and gives a config of them.

    Its argument changes the annotations; the images are in data/images.
    """
    monkeypatch.chdir(tmp_path)
    for index in range(4):
        suffix = "png" if index == 3 else "jpg"
        write_image(tmp_path / "data" / "images" / f"{index}.{suffix}")

    def make(change: Callable[[dict], object] = lambda data: None) -> Config:
        names = ["0.jpg", "1.jpg", "2.jpg", "3.png"]
        images = [
            dict(id=i, file_name=name, width=WIDTH, height=HEIGHT)
            for i, name in enumerate(names)
        ]
        square = [5, 5, 15, 5, 15, 15, 5, 15]
        annotations = [
            dict(
                id=i + 1,
                image_id=i // 2,
                category_id=i % 3 + 1,
                bbox=[5, 5, 10, 10],
                area=100,
                iscrowd=0,
                segmentation=[square],
            )
            for i in range(8)
        ]
        categories = [dict(id=i, name=name) for i, name in enumerate(CLASSES, 1)]
        data = dict(images=images, annotations=annotations, categories=categories)
        change(data)
        (tmp_path / "data" / "train.json").write_text(json.dumps(data))
        dataset = dict(
            type="CocoDataset",
            data_root="data/",
            ann_file="train.json",
            data_prefix=dict(img="images/"),
            metainfo=dict(classes=CLASSES),
            pipeline=[dict(type="LoadAnnotations", with_mask=True)],
        )
        return Config(
            dict(
                default_scope="mmdet",
                model=dict(bbox_head=dict(num_classes=3)),
                train_dataloader=dict(dataset=dataset),
            )
        )

    return make
