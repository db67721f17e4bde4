"""Folders of toy data: what decides them, and writing them all or not at all."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from rich.progress import track

from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing

SPEC_FILE = "toy_data.txt"

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

    def write_split(self, root: Path, split: str, numbered: Numbered) -> None:
        """Draw the numbered images of ``train`` or ``val`` into the folder ``root``."""
        raise NotImplementedError

    def write(self, out_dir: str | Path) -> bool:
        """Write the data set, or keep the one that is there if it has the same spec.

        ``out_dir`` appears when it is complete; an interrupted call leaves nothing
        behind. The spec is kept in it as :data:`SPEC_FILE`.

        Args:
            out_dir: Folder to make. Its parents are made where missing.

        Returns:
            Whether anything was written: False if the data set was there.

        Raises:
            UserError: If ``out_dir`` cannot be written or has other contents.
        """
        out_dir = Path(out_dir).absolute()
        if any(out_dir.glob("*")):
            file = out_dir / SPEC_FILE
            found = file.read_text() if file.exists() else "other files"
            if found == str(self):
                return False
            raise UserError(
                f"{out_dir} holds {found}, not {self}: choose another folder or "
                "remove it"
            )
        with replacing(out_dir) as partial:
            partial.mkdir()
            # The split's place is part of the seed: no scene is in both.
            for place, split in enumerate(("train", "val")):
                numbers = range(1, getattr(self, f"num_{split}") + 1)
                numbered = (
                    (number, np.random.default_rng((self.seed, place, number)))
                    for number in track(numbers, f"{split} images")
                )
                self.write_split(partial, split, numbered)
            (partial / SPEC_FILE).write_text(str(self))
        return True
