"""A toy instance-segmentation data set in the format and folder layout of COCO."""

import json
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from rich.progress import track

from focal_mm.toy.shapes import CLASSES, MIN_SIZE, draw_scene

SPEC_FILE = "spec.json"

# To be raised with every change after which the same spec gives other data.
_FORMAT_VERSION = 1

# A split's place in the random seed keeps the scenes of the splits apart.
_SPLITS = ("train", "val")


@dataclass(frozen=True)
class CocoSpec:
    """What decides every byte of the annotations.

    Attributes:
        num_train: Number of training images.
        num_val: Number of validation images.
        size: Side of the square images in pixels.
        seed: Non-negative seed of all scenes.

    Raises:
        ValueError: If a number is out of its range.
    """

    num_train: int = 600
    num_val: int = 100
    size: int = 224
    seed: int = 0

    def __post_init__(self) -> None:
        for name, lowest in (
            ("num_train", 1),
            ("num_val", 1),
            ("size", MIN_SIZE),
            ("seed", 0),
        ):
            if getattr(self, name) < lowest:
                raise ValueError(
                    f"{name} must be at least {lowest}, got {getattr(self, name)}"
                )

    def to_dict(self) -> dict:
        """The spec with the format's version and classes, ready for JSON."""
        return {
            "format": "focal_mm toy coco",
            "version": _FORMAT_VERSION,
            "classes": list(CLASSES),
            **asdict(self),
        }


def write_coco(out_dir: str | Path, spec: CocoSpec, progress: bool = False) -> bool:
    """Write the data set, or keep the one that is there if it has the same spec.

    The layout is that of COCO 2017 (``train2017``, ``val2017`` and
    ``annotations/instances_{train,val}2017.json``), so that a detection config
    needs another ``data_root`` and other class names only. ``out_dir`` appears when
    it is complete; an interrupted call leaves nothing behind.

    Args:
        out_dir: Folder to make. Its parents are made where missing.
        spec: What to draw.
        progress: Show a progress bar.

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
        for split in _SPLITS:
            _write_split(unfinished, split, spec, progress)
        _write_json(unfinished / SPEC_FILE, spec.to_dict())
        unfinished.chmod(0o755)
        unfinished.rename(out_dir)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return True


def _holds(out_dir: Path, spec: CocoSpec) -> bool:
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


def _write_split(root: Path, split: str, spec: CocoSpec, progress: bool) -> None:
    folder = root / f"{split}2017"
    folder.mkdir()
    images: list[dict] = []
    annotations: list[dict] = []
    count = getattr(spec, f"num_{split}")
    for image_id in _tracked(range(1, count + 1), f"{split} images", progress):
        seed = (spec.seed, _SPLITS.index(split), image_id)
        scene = draw_scene(np.random.default_rng(seed), spec.size)
        name = f"{image_id:012d}.png"
        if not cv2.imwrite(str(folder / name), scene.image[..., ::-1]):
            raise OSError(f"could not write {folder / name}")
        images.append(
            {"id": image_id, "file_name": name, "width": spec.size, "height": spec.size}
        )
        for item in scene.objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": item.label + 1,
                    "iscrowd": 0,
                    **_describe(item.mask),
                }
            )
    contents = {
        "info": {"description": "focal_mm toy shapes", "split": split},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": i, "name": name} for i, name in enumerate(CLASSES, 1)],
    }
    _write_json(root / "annotations" / f"instances_{split}2017.json", contents)


def _describe(mask: np.ndarray) -> dict:
    """COCO's ``segmentation`` (compressed RLE), ``area`` and ``bbox`` of a mask."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
    }


def _tracked(items: range, description: str, progress: bool) -> Iterable[int]:
    return track(items, description) if progress else items


def _write_json(path: Path, contents: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(contents))
