"""One face for the Inferencers of mmdet, mmseg and mmpretrain.

They predict, draw and describe; here is what differs in how they are called, and what
they leave out: the whole model's weights must be in the checkpoint.
"""

import logging
import pkgutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import DATASETS, init_default_scope

from focal_mm.checkpoint import read_checkpoint
from focal_mm.checkpoint.rule import load_weights
from focal_mm.engine.checks import class_numbers
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError
from focal_mm.engine.libraries import library_of

if TYPE_CHECKING:
    from mmdet.apis import DetInferencer
    from mmpretrain import ImageClassificationInferencer
    from mmseg.apis import MMSegInferencer


class Predictor(ABC):
    """A model with its weights, ready to predict and to draw.

    Args:
        cfg: Config with a ``default_scope`` of the task libraries; not changed.
        checkpoint: File or address with all weights of the model, as training writes
            it or as the released code did.
        device: Where to run.
        score_thr: For detectors, the score from which predictions are drawn; mmdet's
            default is 0.3.
        allow_partial: Whether weights may be missing from the checkpoint.

    Attributes:
        inferencer: The library's.
        notes: Lines for the user.

    Raises:
        focal_mm.checkpoint.CheckpointError: If the checkpoint cannot be read or does
            not fit the config.
    """

    _inferencer_type: str
    _visualizer: str
    _drawing: Mapping[str, Any] = {}

    def __init__(
        self,
        cfg: Config,
        checkpoint: str,
        device: str,
        score_thr: float | None = None,
        allow_partial: bool = False,
    ) -> None:
        if score_thr is not None:
            self._drawing = dict(pred_score_thr=score_thr)
        self.notes: list[str] = []
        loaded = read_checkpoint(checkpoint)
        init_default_scope(cfg.default_scope)
        cfg = deepcopy(cfg)
        # Nothing is sent to the backends of training.
        cfg.visualizer = dict(type=self._visualizer)
        with warnings.catch_warnings():
            # That weights and class names are missing: they come below.
            warnings.simplefilter("ignore", UserWarning)
            self.inferencer = self._build(cfg, device)
        model = self.inferencer.model
        self.notes += load_weights(model, loaded, checkpoint, allow_partial)
        self._name_classes(cfg, loaded.get("meta") or {})

    def _build(self, cfg: Config, device: str) -> Any:
        """The library's inferencer, without weights."""
        return pkgutil.resolve_name(self._inferencer_type)(cfg, device=device)

    def _name_classes(self, cfg: Config, meta: Mapping[str, Any]) -> None:
        """Take names and colours from a checkpoint's meta or the config's data."""
        meta = meta.get("dataset_meta") or {}
        if not meta.get("classes"):
            dataset = dict(cfg.test_dataloader.dataset, lazy_init=True)
            meta = DATASETS.build(dataset).metainfo
        names, colours = meta.get("classes") or (), meta.get("palette")
        numbers = set(class_numbers(cfg.model).values())
        if len(numbers) == 1 and len(names) not in numbers:
            (number,) = numbers
            self.notes.append(
                f"classes are called by their indices: {len(names)} have names, the "
                f"model predicts {number}"
            )
            names = [str(index) for index in range(number)]
        if not isinstance(colours, (list, tuple)) or len(colours) < len(names):
            colours = np.random.default_rng(42).integers(256, size=(len(names), 3))
            colours = colours.tolist()
        palette = [tuple(colour) for colour in colours[: len(names)]]
        meta = dict(classes=tuple(names), palette=palette)
        self.inferencer.model.dataset_meta = meta
        self.inferencer.visualizer.dataset_meta = meta
        # Where mmpretrain looks.
        self.inferencer.classes = meta["classes"]

    def predict(self, image: str | np.ndarray) -> Any:
        """Predict one image.

        Args:
            image: Its file, which the config's pipeline reads, or an array (H, W, 3)
                of uint8 in BGR.

        Returns:
            The library's data sample.
        """
        data = next(iter(self.inferencer.preprocess([image])))
        # mmdet's gives the image back before the data.
        (sample,) = self.inferencer.forward(data if isinstance(data, dict) else data[1])
        return sample

    def draw(self, image: np.ndarray, sample: Any) -> np.ndarray:
        """A copy of the BGR image (H, W, 3) of uint8 with the predictions drawn."""
        images = [mmcv.bgr2rgb(image)]
        drawn = self.inferencer.visualize(
            images, [sample], return_vis=True, **self._drawing
        )
        return mmcv.rgb2bgr(drawn[0])

    @abstractmethod
    def describe(self, sample: Any) -> dict:
        """The predictions as plain data."""


class Detector(Predictor):
    """Boxes, masks and panoptic maps of mmdet."""

    _inferencer_type = "mmdet.apis.DetInferencer"
    _visualizer = "DetLocalVisualizer"

    def describe(self, sample: Any) -> dict:
        return self.inferencer.pred2dict(sample)


class Segmentor(Predictor):
    """Label maps of mmseg."""

    _inferencer_type = "mmseg.apis.MMSegInferencer"
    _visualizer = "SegLocalVisualizer"
    _drawing: Mapping[str, Any] = dict(opacity=0.5)

    def describe(self, sample: Any) -> dict:
        """Which labels are in the map, and how many pixels each has."""
        labels, pixels = np.unique(self.label_map(sample), return_counts=True)
        return dict(labels=labels.tolist(), pixels=pixels.tolist())

    def label_map(self, sample: Any) -> np.ndarray:
        """Label indices (H, W), uint8 or uint16, of a library with ``label_maps``."""
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        return labels.astype(np.uint8 if labels.max() < 256 else np.uint16)


class Classifier(Predictor):
    """Classes of images of mmpretrain."""

    _visualizer = "UniversalVisualizer"

    def _build(self, cfg: Config, device: str) -> Any:
        from mmpretrain import ImageClassificationInferencer
        from mmpretrain.visualization import UniversalVisualizer

        inferencer = ImageClassificationInferencer(cfg, pretrained=False, device=device)
        # Its own way to draw writes a file for each image.
        inferencer.visualizer = UniversalVisualizer()
        return inferencer

    def draw(self, image: np.ndarray, sample: Any) -> np.ndarray:
        visualizer, image = self.inferencer.visualizer, mmcv.bgr2rgb(image)
        return mmcv.rgb2bgr(visualizer.visualize_cls(image, sample, draw_gt=False))

    def describe(self, sample: Any) -> dict:
        found = self.inferencer.postprocess([sample], None)[0]
        return dict(found, pred_scores=found["pred_scores"].tolist())


def load_detector(
    config: str | Path,
    checkpoint: str,
    device: str | None = None,
    allow_partial: bool = False,
) -> "DetInferencer":
    """Make mmdet's Inferencer with weights of a file, of which nothing is executed.

    Args:
        config: Config file.
        checkpoint: File or address with all weights of the model, as training writes
            it.
        device: Where to run; by default a GPU if there is one.
        allow_partial: Whether weights may be missing; the log names what is random.

    Raises:
        focal_mm.engine.UserError: If the config is not a detector's.
        focal_mm.checkpoint.CheckpointError: If the checkpoint cannot be read or does
            not fit the config.
    """
    return _load(Detector, config, checkpoint, device, allow_partial)


def load_segmentor(
    config: str | Path,
    checkpoint: str,
    device: str | None = None,
    allow_partial: bool = False,
) -> "MMSegInferencer":
    """Make mmseg's Inferencer; see :func:`load_detector`."""
    return _load(Segmentor, config, checkpoint, device, allow_partial)


def load_classifier(
    config: str | Path,
    checkpoint: str,
    device: str | None = None,
    allow_partial: bool = False,
) -> "ImageClassificationInferencer":
    """Make mmpretrain's Inferencer; see :func:`load_detector`."""
    return _load(Classifier, config, checkpoint, device, allow_partial)


def _load(
    kind: type[Predictor],
    config: str | Path,
    checkpoint: str,
    device: str | None,
    allow_partial: bool,
) -> Any:
    cfg = load_config(config)
    library = library_of(cfg)
    if pkgutil.resolve_name(library.predictor) is not kind:
        raise UserError(f"{config} is a config of {library.scope}: use its loader")
    predictor = kind(
        cfg, checkpoint, device or get_device(), allow_partial=allow_partial
    )
    for note in predictor.notes:
        print_log(note, logger="current", level=logging.WARNING)
    return predictor.inferencer
