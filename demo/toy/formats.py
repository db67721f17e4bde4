"""Toy data sets in the formats and folder layouts of COCO, ADE20K and ImageNet."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import mmcv
import numpy as np
from pycocotools import mask as coco_mask

from demo.toy.folder import Numbered, ToySpec
from demo.toy.shapes import CLASSES, MIN_SIZE, draw_scene, draw_shape

REGIONS = ("sky", "ground", *CLASSES)
"""Classes of semantic segmentation."""

UNLABELLED = 0
"""ADE20K's files call it "other objects"; it is ignored. Regions follow from 1."""


@dataclass(frozen=True)
class CocoSpec(ToySpec):
    """Instance segmentation in the layout of COCO 2017.

    That is ``{train,val}2017`` and ``annotations/instances_{train,val}2017.json``, so
    that a detection config needs another ``data_root`` and other class names only.
    """

    num_train: int = 600
    num_val: int = 100
    size: int = 224
    min_size: ClassVar[int] = MIN_SIZE

    def write_split(self, root: Path, split: str, numbered: Numbered) -> None:
        images: list[dict] = []
        annotations: list[dict] = []
        for image_id, rng in numbered:
            scene = draw_scene(rng, self.size)
            name = f"{image_id:012d}.png"
            mmcv.imwrite(mmcv.rgb2bgr(scene.image), root / f"{split}2017" / name)
            images.append(
                dict(id=image_id, file_name=name, width=self.size, height=self.size)
            )
            for label, mask in zip(scene.labels, scene.masks, strict=True):
                rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
                rle["counts"] = rle["counts"].decode("ascii")
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": image_id,
                        "category_id": label + 1,
                        "iscrowd": 0,
                        "segmentation": rle,
                        "area": int(coco_mask.area(rle)),
                        "bbox": coco_mask.toBbox(rle).tolist(),
                    }
                )
        categories = [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)]
        contents = {
            "info": {"description": "focal_mm toy shapes", "split": split},
            "images": images,
            "annotations": annotations,
            "categories": categories,
        }
        path = root / "annotations" / f"instances_{split}2017.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(contents))


@dataclass(frozen=True)
class AdeSpec(ToySpec):
    """Semantic segmentation in the layout of ADEChallengeData2016.

    That is ``images/{training,validation}/*.jpg`` and
    ``annotations/{training,validation}/*.png``. With ``reduce_zero_label`` the labels
    read are indices into :data:`REGIONS`, and 255 where there is none.
    """

    num_train: int = 600
    num_val: int = 50
    size: int = 56
    min_size: ClassVar[int] = 48

    def write_split(self, root: Path, split: str, numbered: Numbered) -> None:
        folder = {"train": "training", "val": "validation"}[split]
        for number, rng in numbered:
            image, labels = draw_regions(rng, self.size)
            name = f"ADE_{split}_{number:08d}"
            mmcv.imwrite(mmcv.rgb2bgr(image), root / "images" / folder / f"{name}.jpg")
            mmcv.imwrite(labels, root / "annotations" / folder / f"{name}.png")


def draw_regions(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene with sky and ground behind the shapes: regions as well as objects.

    Args:
        rng: Source of all randomness: the same state gives the same scene.
        size: Side of the square image in pixels.

    Returns:
        The RGB image, uint8 of shape (size, size, 3), and its labels, uint8 of shape
        (size, size): 1 + index into :data:`REGIONS`, or :data:`UNLABELLED` on the
        lines between regions, where nobody could say.
    """
    # Shapes have their sizes in pixels: a smaller image is a larger one shrunk.
    side = max(size, MIN_SIZE)
    scene = draw_scene(rng, side, class_hues=True)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    sky = rows < rng.uniform(-0.2, 0.1) + rng.uniform(-0.2, 0.2) * columns
    labels = np.where(sky, 1 + REGIONS.index("sky"), 1 + REGIONS.index("ground"))
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        labels[mask] = 1 + REGIONS.index(CLASSES[label])
    labels = labels.astype(np.uint8)

    # A haze of light blue over the ground that draw_scene painted.
    haze = (labels == 1 + REGIONS.index("sky"))[..., None] * 0.6
    blue = 255 * np.array([0.7, 0.85, 1.0])
    image = (scene.image * (1 - haze) + blue * haze).round().astype(np.uint8)
    if side != size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST)
    square = np.ones((3, 3), np.uint8)
    between = cv2.dilate(labels, square) != cv2.erode(labels, square)
    labels[between] = UNLABELLED
    return image, labels


@dataclass(frozen=True)
class ImageFolderSpec(ToySpec):
    """Classification in ImageNet's layout, a folder for each class.

    That is ``{train,val}/CLASS/*.png`` with lists ``meta/{train,val}.txt`` of paths
    below the split's folder and labels: mmpretrain's CustomDataset finds the classes by
    the folders, its ImageNet data set reads the lists. The classes take turns.
    """

    num_train: int = 600
    num_val: int = 90
    size: int = 56
    min_size: ClassVar[int] = 32

    def write_split(self, root: Path, split: str, numbered: Numbered) -> None:
        lines = []
        for number, rng in numbered:
            label = (number - 1) % len(CLASSES)
            path = f"{CLASSES[label]}/{number:06d}.png"
            image = draw_shape(rng, self.size, label, class_hues=True)
            mmcv.imwrite(mmcv.rgb2bgr(image), root / split / path)
            lines.append(f"{path} {label}\n")
        (root / "meta").mkdir(exist_ok=True)
        (root / "meta" / f"{split}.txt").write_text("".join(lines))
