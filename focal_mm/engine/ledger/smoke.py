"""Rows made small: the same model and recipe, on a few toy images for a few steps.

Everything of it is in ``WORK_DIRS/smoke``. The configs are marked ``smoke = True``, and
so is every run by what MMEngine dumps of them: none is ever taken for a measurement.
"""

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from pycocotools import mask as coco_mask

from focal_mm.engine.checks.classes import class_numbers
from focal_mm.engine.config import walk
from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing
from focal_mm.engine.ledger.rows import Row

_TRAIN_IMAGES, _VAL_IMAGES, _BATCH = 4, 2, 2
_SIZE = 192
_SHRINK = 8
"""By how much images are smaller. Classifiers keep theirs: some need its windows."""
_REGIONS = 32
"""How many regions of an image two-stage detectors take, at most."""
_EPOCHS, _ITERATIONS = 2, 4
_STUFF = 183
_SHAPES = ("circle", "square", "triangle")
_TEST_DEV = "image_info_test-dev2017.json"


def make_smoke_rows(rows: Iterable[Row], root: Path, work_dirs: Path) -> list[Row]:
    """Write a small config for each row, and the toy data that they need.

    Args:
        rows: The rows.
        root: Of the repository, whose ``demo/`` makes the data.
        work_dirs: Folder of everything.

    Returns:
        The rows with the small configs.

    Raises:
        UserError: If the data cannot be made.
    """
    small = []
    for row in rows:
        cfg = Config.fromfile(row.config, import_custom_modules=False)
        shrink = _BY_SCOPE[cfg.default_scope]
        shrink(cfg, _toy_data(cfg.default_scope, root, work_dirs / "data"))
        _shorten(cfg)
        small.append(smoke_row(row, work_dirs))
        with replacing(small[-1].config) as partial:
            cfg.dump(partial)
    return small


def smoke_row(row: Row, work_dirs: Path) -> Row:
    """A row with its small config, which need not be there yet."""
    return replace(row, config=work_dirs / "configs" / f"{row.name}.py")


def _shorten(cfg: Config) -> None:
    """A training of a few steps that can be stopped and resumed half-way."""
    cfg.smoke = True
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        if cfg.get(name):
            workers = dict(num_workers=0, persistent_workers=False)
            cfg[name].update(batch_size=_BATCH if "train" in name else 1, **workers)
    loop, hooks = cfg.train_cfg, cfg.default_hooks
    if "max_epochs" in loop:
        loop.update(max_epochs=_EPOCHS, val_begin=_EPOCHS, val_interval=_EPOCHS)
        hooks.checkpoint.interval = 1
    else:
        loop.update(max_iters=_ITERATIONS)
        loop.update(val_begin=_ITERATIONS, val_interval=_ITERATIONS)
        hooks.checkpoint.interval = _ITERATIONS // 2
    hooks.checkpoint.update(save_best=None, max_keep_ckpts=2)
    hooks.logger.interval = 1
    cfg.log_processor = dict(cfg.get("log_processor") or {}, window_size=1)
    for _, node in walk(cfg.model):
        # Nothing is fetched from a network.
        if "://" in str((node.get("init_cfg") or {}).get("checkpoint")):
            node.init_cfg = None
    if get_device() == "cpu" and cfg.optim_wrapper.type == "AmpOptimWrapper":
        cfg.optim_wrapper.type = "OptimWrapper"


def _shrink_detector(cfg: Config, data: Path) -> None:
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        _shrink_sizes(dataset.pipeline)
        dataset.update(data_root=f"{data}/", metainfo=dict(classes=_SHAPES))
    for split in ("val", "test"):
        annotations = data / "annotations" / "instances_val2017.json"
        cfg[f"{split}_evaluator"].ann_file = str(annotations)
    for key in class_numbers(cfg.model):
        cfg.merge_from_dict({key: len(_SHAPES)})
    _shrink_sizes(cfg.get("tta_pipeline"))
    for part in ("train_cfg", "test_cfg"):
        for _, node in walk(cfg.model.get(part)):
            for name in ("num", "max_per_img", "nms_pre"):
                if isinstance(node.get(name), int):
                    node[name] = min(node[name], _REGIONS)


def _shrink_segmentor(cfg: Config, data: Path) -> None:
    for split in ("train", "val", "test"):
        dataset = cfg[f"{split}_dataloader"].dataset
        _shrink_sizes(dataset.pipeline)
        dataset.data_root = str(data)
    for part in (cfg.model.data_preprocessor, cfg.model.test_cfg, cfg.tta_pipeline):
        _shrink_sizes(part)


def _shrink_classifier(cfg: Config, data: Path) -> None:
    for split in ("train", "val", "test"):
        if cfg.get(f"{split}_dataloader"):
            cfg[f"{split}_dataloader"].dataset.data_root = str(data)


_BY_SCOPE: dict[str, Callable[[Config, Path], None]] = {
    "mmdet": _shrink_detector,
    "mmseg": _shrink_segmentor,
    "mmpretrain": _shrink_classifier,
}


def _shrink_sizes(part: Any) -> None:
    """Divide the sizes in pipelines, crops and windows, in place."""
    for _, node in walk(part):
        for key in ("scale", "scales", "crop_size", "size", "stride"):
            if isinstance(node.get(key), (list, tuple)):
                node[key] = _smaller(node[key])


def _smaller(size: Any) -> Any:
    if isinstance(size, (list, tuple)):
        return type(size)(map(_smaller, size))
    # Ratios stay.
    return max(1, size // _SHRINK) if isinstance(size, int) else size


def _toy_data(scope: str, root: Path, folder: Path) -> Path:
    """The toy data of a library, made once."""
    kind = {"mmdet": "coco", "mmseg": "ade", "mmpretrain": "imagefolder"}[scope]
    folder = folder / kind
    if folder.is_dir():
        return folder
    with replacing(folder) as partial:
        spec = _toy_formats(root)[kind]
        spec(num_train=_TRAIN_IMAGES, num_val=_VAL_IMAGES, size=_SIZE).write(partial)
        if kind == "coco":
            _complete_coco(partial)
    return folder


def _toy_formats(root: Path) -> dict[str, Any]:
    """The formats of ``python -m demo.toy``, which is not part of the package."""
    if not (root / "demo").is_dir():
        raise UserError(f"--smoke needs the repository's demo/, which {root} lacks")
    if str(root) not in sys.path:
        sys.path.append(str(root))
    from demo.toy.__main__ import FORMATS

    return FORMATS


def _complete_coco(folder: Path) -> None:
    """Add what some rows need: polygons, maps of stuff, test-dev's images."""
    annotations = folder / "annotations"
    train = annotations / "instances_train2017.json"
    contents = json.loads(train.read_text())
    for annotation in contents["annotations"]:
        mask = coco_mask.decode(annotation["segmentation"])
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        annotation["segmentation"] = [outline.ravel().tolist() for outline in outlines]
    train.write_text(json.dumps(contents))
    stuff = folder / "stuffthingmaps" / "train2017"
    stuff.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for image in contents["images"]:
        regions = rng.integers(0, _STUFF, (4, 4), dtype=np.uint8)
        regions = np.kron(regions, np.ones((_SIZE // 4, _SIZE // 4), np.uint8))
        cv2.imwrite(str((stuff / image["file_name"]).with_suffix(".png")), regions)
    contents = json.loads((annotations / "instances_val2017.json").read_text())
    del contents["annotations"]
    (annotations / _TEST_DEV).write_text(json.dumps(contents))
    os.symlink("val2017", folder / "test2017")
