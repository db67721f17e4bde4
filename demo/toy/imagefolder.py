"""A toy classification data set in ImageNet's layout: a folder for each class."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from demo.toy.folder import Numbered, ToySpec, write_folder, write_image
from demo.toy.shapes import CLASSES, draw_shape


@dataclass(frozen=True)
class ImageFolderSpec(ToySpec):
    num_train: int = 600
    num_val: int = 90
    size: int = 56
    min_size: ClassVar[int] = 32


def write_imagefolder(
    out_dir: str | Path, spec: ImageFolderSpec, progress: bool = False
) -> bool:
    """Write a data set as :func:`demo.toy.folder.write_folder` does.

    The layout is ``{train,val}/CLASS/*.png`` with lists ``meta/{train,val}.txt``
    (path below the split's folder, label): mmpretrain's CustomDataset finds the
    classes by the folders, its ImageNet data set reads the lists. The classes take
    turns.
    """
    return write_folder(out_dir, spec, _write_split, progress)


def _write_split(root: Path, split: str, size: int, numbered: Numbered) -> None:
    lines = []
    for number, rng in numbered:
        label = (number - 1) % len(CLASSES)
        path = f"{CLASSES[label]}/{number:06d}.png"
        write_image(root / split / path, draw_shape(rng, size, label, class_hues=True))
        lines.append(f"{path} {label}\n")
    (root / "meta").mkdir(exist_ok=True)
    (root / "meta" / f"{split}.txt").write_text("".join(lines))
