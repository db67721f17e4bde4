"""The task libraries: all that the command lines must know to tell them apart.

A new task library is one entry of :data:`LIBRARIES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from mmengine.config import Config

from focal_mm.engine.config import type_name, walk
from focal_mm.engine.errors import UserError


@dataclass(frozen=True)
class Library:
    """What is particular to a task library.

    Attributes:
        scope: Its ``default_scope``, which is also the name of its package.
        extra: The extra of ``focal_mm`` that installs it.
        draw: What makes its visualization hook draw every image.
        show_dir: The hook's argument for a folder of pictures; None where the
            visualizer's ``save_dir`` decides.
        dump_metric: The metric that dumps predictions into a file.
        predictor: Name of its :class:`~focal_mm.engine.inferencers.Predictor`, which is
            imported when it is needed.
        table_shape: The (height, width) of the image for which tables of the field
            give FLOPs of a config's model. Raises UserError if the config does not
            tell.
        dense: Whether its models find things in an image, not the class of the whole:
            their backbones come pretrained and their heads must know the classes.
        label_maps: Whether its metrics can write predictions as images.
        draws_tta: Whether it can draw what test-time augmentation predicts.
        default_tta: From a model's config and the last transform of its test pipeline:
            the model and last transform of a flip test, for configs without their own.
    """

    scope: str
    extra: str
    draw: Mapping[str, Any]
    show_dir: str | None
    dump_metric: str
    predictor: str
    table_shape: Callable[[Config], tuple[int, int]]
    dense: bool = True
    label_maps: bool = False
    draws_tta: bool = True
    default_tta: Callable[[dict, dict], tuple[dict, dict]] | None = None


def _coco_shape(cfg: Config) -> tuple[int, int]:
    return 800, 1280


def _four_crops(cfg: Config) -> tuple[int, int]:
    """The training crop's height by four times that: 512×2048."""
    height, _ = _crop(cfg, "RandomCrop", "crop_size")
    return height, 4 * height


def _one_crop(cfg: Config) -> tuple[int, int]:
    return _crop(cfg, "RandomResizedCrop", "scale")


def _crop(cfg: Config, transform: str, argument: str) -> tuple[int, int]:
    """The (height, width) to which the training pipeline crops."""
    for _, node in walk(cfg.get("train_dataloader")):
        if argument in node and type_name(node.get("type", "")) == transform:
            size = node[argument]
            return (size, size) if isinstance(size, int) else tuple(size)
    raise UserError(
        f"the config's train_dataloader has no {transform} to take a size from"
    )


def _tta_of_detectors(model: dict, pack: dict) -> tuple[dict, dict]:
    # mmdet's own merges boxes only. Ours is named in full: nothing may have imported
    # it, and importing it here would need mmdet before that is checked.
    masks = any(node.get("mask_head") for _, node in walk(model))
    tta_model = dict(
        type="focal_mm.det.tta.DetMaskTTAModel" if masks else "DetTTAModel",
        tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
    )
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    return tta_model, dict(
        type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction")
    )


def _tta_of_classifiers(model: dict, pack: dict) -> tuple[dict, dict]:
    return dict(type="mmpretrain.AverageClsScoreTTA"), pack


_ALL = (
    Library(
        "mmdet",
        extra="det",
        draw={"draw": True},
        show_dir="test_out_dir",
        dump_metric="DumpDetResults",
        predictor="focal_mm.engine.inferencers.Detector",
        table_shape=_coco_shape,
        default_tta=_tta_of_detectors,
    ),
    Library(
        "mmseg",
        extra="seg",
        draw={"draw": True},
        show_dir=None,
        dump_metric="DumpResults",
        predictor="focal_mm.engine.inferencers.Segmentor",
        table_shape=_four_crops,
        label_maps=True,
    ),
    Library(
        "mmpretrain",
        extra="cls",
        draw={"enable": True, "interval": 1},
        show_dir="out_dir",
        dump_metric="DumpResults",
        predictor="focal_mm.engine.inferencers.Classifier",
        table_shape=_one_crop,
        dense=False,
        draws_tta=False,
        default_tta=_tta_of_classifiers,
    ),
)
LIBRARIES: Mapping[str, Library] = MappingProxyType({lib.scope: lib for lib in _ALL})
"""By ``default_scope``."""


def library_of(cfg: Config) -> Library:
    """The library of a config's ``default_scope``.

    Raises:
        UserError: If it is none of :data:`LIBRARIES`.
    """
    scope = cfg.get("default_scope")
    if scope not in LIBRARIES:
        raise UserError(
            f"the config's default_scope must be one of {', '.join(LIBRARIES)}, "
            f"got {scope}"
        )
    return LIBRARIES[scope]
