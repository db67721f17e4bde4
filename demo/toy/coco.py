"""A toy instance-segmentation data set in the format and folder layout of COCO."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from pycocotools import mask as coco_mask

from demo.toy.folder import Numbered, ToySpec, write_folder, write_image
from demo.toy.shapes import CLASSES, MIN_SIZE, draw_scene


@dataclass(frozen=True)
class CocoSpec(ToySpec):
    num_train: int = 600
    num_val: int = 100
    size: int = 224
    min_size: ClassVar[int] = MIN_SIZE


def write_coco(out_dir: str | Path, spec: CocoSpec, progress: bool = False) -> bool:
    """Write a data set as :func:`demo.toy.folder.write_folder` does.

    The layout is that of COCO 2017 (``train2017``, ``val2017`` and
    ``annotations/instances_{train,val}2017.json``), so that a detection config
    needs another ``data_root`` and other class names only.
    """
    return write_folder(out_dir, spec, _write_split, progress)


def _write_split(root: Path, split: str, size: int, numbered: Numbered) -> None:
    images: list[dict] = []
    annotations: list[dict] = []
    for image_id, rng in numbered:
        scene = draw_scene(rng, size)
        name = f"{image_id:012d}.png"
        write_image(root / f"{split}2017" / name, scene.image)
        images.append(dict(id=image_id, file_name=name, width=size, height=size))
        for label, mask in zip(scene.labels, scene.masks, strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "iscrowd": 0,
                    **_describe(mask),
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
