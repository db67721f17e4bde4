"""A toy instance-segmentation data set in the format and folder layout of COCO."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

import numpy as np
from pycocotools import mask as coco_mask

from demo.toy.folder import SPLITS, ToySpec, write_folder, write_image
from demo.toy.shapes import CLASSES, MIN_SIZE, draw_scene


@dataclass(frozen=True)
class CocoSpec(ToySpec):
    """What decides every byte of the annotations; see :class:`ToySpec`."""

    num_train: int = 600
    num_val: int = 100
    size: int = 224

    kind: ClassVar[str] = "coco"
    version: ClassVar[int] = 1
    classes: ClassVar[tuple[str, ...]] = CLASSES
    min_size: ClassVar[int] = MIN_SIZE


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
    return write_folder(out_dir, spec, partial(_write, spec=spec, progress=progress))


def _write(root: Path, spec: CocoSpec, progress: bool) -> None:
    for split in SPLITS:
        _write_split(root, split, spec, progress)


def _write_split(root: Path, split: str, spec: CocoSpec, progress: bool) -> None:
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, rng in spec.rngs(split, progress):
        scene = draw_scene(rng, spec.size)
        name = f"{image_id:012d}.png"
        write_image(root / f"{split}2017" / name, scene.image)
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
    path = root / "annotations" / f"instances_{split}2017.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(contents))


def _describe(mask: np.ndarray) -> dict:
    """COCO's ``segmentation`` (compressed RLE), ``area`` and ``bbox`` of a mask."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "segmentation": {"size": rle["size"], "counts": rle["counts"].decode("ascii")},
        "area": int(coco_mask.area(rle)),
        "bbox": coco_mask.toBbox(rle).tolist(),
    }
