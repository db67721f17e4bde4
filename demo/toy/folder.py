"""Folders of toy data: what decides them, and writing them all or not at all."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
from rich.progress import track

from focal_mm.engine.errors import UserError

SPEC_FILE = "toy_data.txt"

_SPLITS = ("train", "val")
"""A split's place here is part of the seed and keeps the scenes of splits apart."""

Numbered = Iterator[tuple[int, np.random.Generator]]
"""The numbers of a split's images, from 1, and the random source of each."""


@dataclass(frozen=True)
class ToySpec:
    """What decides every pixel of a data set; a format is a subclass with defaults.

    Attributes:
        num_train: Number of training images.
        num_val: Number of validation images.
        size: Side of the square images in pixels.
        seed: Non-negative seed of all scenes.
        min_size: Smallest ``size``.

    Raises:
        UserError: If a number is out of its range.
    """

    num_train: int
    num_val: int
    size: int
    seed: int = 0

    min_size: ClassVar[int]

    def __post_init__(self) -> None:
        lowest = {"num_train": 1, "num_val": 1, "size": self.min_size, "seed": 0}
        for name, value in asdict(self).items():
            if value < lowest[name]:
                raise UserError(f"{name} must be at least {lowest[name]}, got {value}")


def write_folder(
    out_dir: str | Path,
    spec: ToySpec,
    write_split: Callable[[Path, str, int, Numbered], None],
    progress: bool,
) -> bool:
    """Write a data set, or keep the one that is there if it has the same spec.

    ``out_dir`` appears when it is complete; an interrupted call leaves nothing behind.

    Args:
        out_dir: Folder to make. Its parents are made where missing.
        spec: What decides the data; kept in the folder as :data:`SPEC_FILE`.
        write_split: Writes a split into a folder, given the split's name, the size of
            the images and the images to draw.
        progress: Show progress bars.

    Returns:
        Whether anything was written: False if the data set was there.

    Raises:
        UserError: If ``out_dir`` cannot be written or has other contents.
    """
    out_dir = Path(out_dir).absolute()
    partial = out_dir.with_name(f".{out_dir.name}.{os.getpid()}.partial")
    try:
        if out_dir.exists() and any(out_dir.iterdir()):
            _check_same(out_dir, spec)
            return False
        partial.mkdir(parents=True)
        for index, split in enumerate(_SPLITS):
            numbers = range(1, getattr(spec, f"num_{split}") + 1)
            shown = track(numbers, f"{split} images", disable=not progress)
            images = ((n, np.random.default_rng((spec.seed, index, n))) for n in shown)
            write_split(partial, split, spec.size, images)
        (partial / SPEC_FILE).write_text(str(spec))
        partial.rename(out_dir)
    except OSError as error:
        raise UserError(f"{out_dir} cannot be written: {error}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def _check_same(out_dir: Path, spec: ToySpec) -> None:
    file = out_dir / SPEC_FILE
    found = file.read_text() if file.exists() else "other files"
    if found != str(spec):
        raise UserError(
            f"{out_dir} holds {found}, not {spec}: choose another folder or remove it"
        )


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB or single-channel uint8 image; the suffix decides the format.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image):
        raise OSError(f"no image could be written to {path}")
