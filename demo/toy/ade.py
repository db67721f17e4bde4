"""A toy semantic-segmentation data set in the format and folder layout of ADE20K.

Scenes have a sky and a ground behind the shapes, so that there are regions, as well as
objects, to tell apart.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np

from demo.toy import shapes
from demo.toy.folder import Numbered, ToySpec, write_folder, write_image

CLASSES = ("sky", "ground", *shapes.CLASSES)

UNLABELLED = 0
"""ADE20K's files call it "other objects"; it is ignored. Classes follow from 1."""


@dataclass(frozen=True)
class AdeSpec(ToySpec):
    num_train: int = 600
    num_val: int = 50
    size: int = 56
    min_size: ClassVar[int] = 48


def write_ade(out_dir: str | Path, spec: AdeSpec, progress: bool = False) -> bool:
    """Write a data set as :func:`demo.toy.folder.write_folder` does.

    The layout is that of ADEChallengeData2016: ``images/{training,validation}/*.jpg``
    and ``annotations/{training,validation}/*.png``. With ``reduce_zero_label`` the
    labels read are indices into :data:`CLASSES`, and 255 where there is none.
    """
    return write_folder(out_dir, spec, _write_split, progress)


def _write_split(root: Path, split: str, size: int, numbered: Numbered) -> None:
    folder = {"train": "training", "val": "validation"}[split]
    for number, rng in numbered:
        image, labels = draw_regions(rng, size)
        name = f"ADE_{split}_{number:08d}"
        write_image(root / "images" / folder / f"{name}.jpg", image)
        write_image(root / "annotations" / folder / f"{name}.png", labels)


def draw_regions(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene.

    Args:
        rng: Source of all randomness: the same state gives the same scene.
        size: Side of the square image in pixels.

    Returns:
        The RGB image, uint8 of shape (size, size, 3), and its labels, uint8 of shape
        (size, size): 1 + index into :data:`CLASSES`, or :data:`UNLABELLED` on the
        lines between regions, where nobody could say.
    """
    # Shapes have their sizes in pixels: a smaller image is a larger one shrunk.
    side = max(size, shapes.MIN_SIZE)
    scene = shapes.draw_scene(rng, side, class_hues=True)
    rows, columns = np.mgrid[:side, :side] / side - 0.5
    sky = rows < rng.uniform(-0.2, 0.1) + rng.uniform(-0.2, 0.2) * columns
    labels = np.where(sky, 1 + CLASSES.index("sky"), 1 + CLASSES.index("ground"))
    for label, mask in zip(scene.labels, scene.masks, strict=True):
        labels[mask] = 1 + CLASSES.index(shapes.CLASSES[label])
    labels = labels.astype(np.uint8)

    # A haze of light blue over the ground that draw_scene painted.
    haze = (labels == 1 + CLASSES.index("sky"))[..., None] * 0.6
    blue = 255 * np.array([0.7, 0.85, 1.0])
    image = (scene.image * (1 - haze) + blue * haze).round().astype(np.uint8)
    if side != size:
        image = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
        labels = cv2.resize(labels, (size, size), interpolation=cv2.INTER_NEAREST)
    square = np.ones((3, 3), np.uint8)
    between = cv2.dilate(labels, square) != cv2.erode(labels, square)
    labels[between] = UNLABELLED
    return image, labels
