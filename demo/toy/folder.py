"""Folders of toy data: what decides them, and writing them all or not at all."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
from rich.progress import track

SPEC_FILE = "spec.json"

SPLITS = ("train", "val")
"""A split's place here is part of the seed and keeps the scenes of splits apart."""


@dataclass(frozen=True)
class ToySpec:
    """What decides a data set; a format is a subclass with its own defaults.

    Attributes:
        num_train: Number of training images.
        num_val: Number of validation images.
        size: Side of the square images in pixels.
        seed: Non-negative seed of all scenes.
        kind: The format's name.
        version: To be raised with every change after which the same spec gives other
            data.
        classes: Names of the classes.
        min_size: Smallest ``size``.

    Raises:
        ValueError: If a number is out of its range.
    """

    num_train: int
    num_val: int
    size: int
    seed: int = 0

    kind: ClassVar[str]
    version: ClassVar[int]
    classes: ClassVar[tuple[str, ...]]
    min_size: ClassVar[int]

    def __post_init__(self) -> None:
        for name, lowest in (
            ("num_train", 1),
            ("num_val", 1),
            ("size", self.min_size),
            ("seed", 0),
        ):
            if getattr(self, name) < lowest:
                raise ValueError(
                    f"{name} must be at least {lowest}, got {getattr(self, name)}"
                )

    def to_dict(self) -> dict[str, Any]:
        """The spec with the format's version and classes, ready for JSON."""
        return {
            "format": f"focal_mm toy {self.kind}",
            "version": self.version,
            "classes": list(self.classes),
            **asdict(self),
        }

    def rngs(
        self, split: str, progress: bool
    ) -> Iterator[tuple[int, np.random.Generator]]:
        """Numbers of a split's images, from 1, and the random source of each."""
        count = getattr(self, f"num_{split}")
        numbers: Iterable[int] = range(1, count + 1)
        if progress:
            numbers = track(numbers, f"{split} images")
        for number in numbers:
            seed = (self.seed, SPLITS.index(split), number)
            yield number, np.random.default_rng(seed)


def write_folder(
    out_dir: str | Path, spec: ToySpec, fill: Callable[[Path], None]
) -> bool:
    """Write a data set, or keep the one that is there if it has the same spec.

    ``out_dir`` appears when it is complete; an interrupted call leaves nothing behind.

    Args:
        out_dir: Folder to make. Its parents are made where missing.
        spec: What decides the data; kept in the folder as ``spec.json``.
        fill: Writes all else into the folder that it is given.

    Returns:
        Whether anything was written: False if the data set was there.

    Raises:
        FileExistsError: If ``out_dir`` is a file, or a folder with other contents.
    """
    out_dir = Path(out_dir)
    if _holds(out_dir, spec):
        return False
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    try:
        fill(unfinished)
        (unfinished / SPEC_FILE).write_text(json.dumps(spec.to_dict()))
        unfinished.chmod(0o755)
        unfinished.rename(out_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB or single-channel uint8 image; the suffix decides the format.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image[..., ::-1] if image.ndim == 3 else image):
        raise OSError(f"could not write {path}")


def _holds(out_dir: Path, spec: ToySpec) -> bool:
    """Whether the folder holds this very data set; raises if it holds anything else."""
    advice = "choose another folder or remove this one"
    if not out_dir.exists():
        return False
    if not out_dir.is_dir():
        raise FileExistsError(f"{out_dir} is not a folder: choose another name")
    if not any(out_dir.iterdir()):
        return False
    try:
        found = json.loads((out_dir / SPEC_FILE).read_text())
    except (OSError, ValueError):
        raise FileExistsError(
            f"{out_dir} is not empty and not a toy data set: {advice}"
        ) from None
    wanted = spec.to_dict()
    if found == wanted:
        return True
    found = found if isinstance(found, dict) else {}
    differences = ", ".join(
        f"{key} {found.get(key)} instead of {value}"
        for key, value in wanted.items()
        if found.get(key) != value
    )
    raise FileExistsError(f"{out_dir} holds a data set with {differences}: {advice}")
