"""A toy classification data set in ImageNet's layout: a folder for each class."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from demo.toy.folder import SPLITS, ToySpec, write_folder, write_image
from demo.toy.shapes import CLASSES, draw_shape


@dataclass(frozen=True)
class ImageFolderSpec(ToySpec):
    """What decides every byte of the images; see :class:`ToySpec`."""

    num_train: int = 600
    num_val: int = 90
    size: int = 56

    kind: ClassVar[str] = "imagefolder"
    version: ClassVar[int] = 1
    classes: ClassVar[tuple[str, ...]] = CLASSES
    min_size: ClassVar[int] = 32


def write_imagefolder(
    out_dir: str | Path, spec: ImageFolderSpec, progress: bool = False
) -> bool:
    """Write the data set, or keep the one that is there if it has the same spec.

    The layout is ``{train,val}/CLASS/*.png`` with lists ``meta/{train,val}.txt``
    (path below the split's folder, label): mmpretrain's CustomDataset finds the
    classes by the folders, its ImageNet data set reads the lists.

    Args:
        out_dir: Folder to make. Its parents are made where missing.
        spec: What to draw: the classes take turns.
        progress: Show a progress bar.

    Returns:
        Whether anything was written: False if the data set was there.

    Raises:
        FileExistsError: If ``out_dir`` is a file, or a folder with other contents.
    """
    return write_folder(out_dir, spec, partial(_write, spec=spec, progress=progress))


def _write(root: Path, spec: ImageFolderSpec, progress: bool) -> None:
    (root / "meta").mkdir()
    for split in SPLITS:
        lines = []
        for number, rng in spec.rngs(split, progress):
            label = (number - 1) % len(CLASSES)
            path = f"{CLASSES[label]}/{number:06d}.png"
            image = draw_shape(rng, spec.size, label, class_hues=True)
            write_image(root / split / path, image)
            lines.append(f"{path} {label}\n")
        (root / "meta" / f"{split}.txt").write_text("".join(lines))
