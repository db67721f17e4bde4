"""One face for the inferencers of mmdet, mmseg and mmpretrain.

Each library predicts, draws and describes its predictions by its own inferencer; here
is only what differs in how they are called.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from focal_mm.engine.errors import UserError
from focal_mm.engine.image_demo.weights import load_weights
from focal_mm.engine.launch import type_name

DEFAULT_SCORE_THR = 0.3
_SEG_OPACITY = 0.5
_ANNOTATION_LOADERS = frozenset(
    ("LoadAnnotations", "LoadPanopticAnnotations", "LoadDepthAnnotation")
)
# Weights and class names are set after the inferencer is built.
_UNTRUE_WARNINGS = (
    "Checkpoint is not loaded",
    "weights is None",
    "palette does not exist",
    "Unable to find pre-defined checkpoint",
)
# Where the libraries' models have the layer that decides the number of classes.
_CLASSIFIERS = ("roi_head.bbox_head", "bbox_head", "decode_head", "head")


class Predictor(ABC):
    """A model with weights, ready to predict and to draw.

    Args:
        cfg: Config with ``default_scope`` of the subclass.
        checkpoint: Checkpoint file or address of the whole model.
        device: Where to run.

    Attributes:
        inferencer: The library's own.
        notes: Lines for the user.

    Raises:
        UserError: If the checkpoint does not fit the config.
        focal_mm.checkpoint.CheckpointError: If it cannot be read.
    """

    predicts_label_maps = False

    def __init__(self, cfg: Config, checkpoint: str, device: str) -> None:
        init_default_scope(cfg.default_scope)
        cfg = _prepared(cfg)
        with warnings.catch_warnings():
            for message in _UNTRUE_WARNINGS:
                warnings.filterwarnings("ignore", message=message)
            self.inferencer = self._build(cfg, device)
        self.inferencer.model = revert_sync_batchnorm(self.inferencer.model)
        meta, self.notes = load_weights(self.inferencer.model, checkpoint)
        self._set_classes(*self._class_names(cfg, meta))

    def _class_names(self, cfg: Config, meta: dict) -> tuple[Sequence[str], Any]:
        """Class names and palette: the checkpoint's, or those of the config's data."""
        source = "checkpoint"
        if not meta.get("classes"):
            dataset = dict(deepcopy(cfg.test_dataloader.dataset), lazy_init=True)
            meta, source = DATASETS.build(dataset).metainfo, "config's data set"
        names, number = meta.get("classes"), num_classes(self.inferencer.model)
        if names and number in (None, len(names)):
            return tuple(names), meta.get("palette")
        self.notes.append(
            f"classes are called by their indices: the {source} names "
            f"{len(names or ())} classes, the model predicts {number}"
        )
        return tuple(map(str, range(number or 0))), None

    @abstractmethod
    def _build(self, cfg: Config, device: str) -> Any:
        """The library's inferencer, without weights."""

    @abstractmethod
    def _set_classes(self, names: Sequence[str], palette: Any) -> None:
        """Tell the inferencer what to write and in which colours."""

    @abstractmethod
    def predict(self, image: str | np.ndarray) -> Any:
        """The library's data sample for a file or a BGR image (H, W, 3) of uint8."""

    @abstractmethod
    def draw(self, image: np.ndarray, sample: Any) -> np.ndarray:
        """A copy of the RGB image (H, W, 3) of uint8 with the predictions drawn."""

    @abstractmethod
    def describe(self, sample: Any) -> dict:
        """The predictions as plain data for JSON."""

    def label_map(self, sample: Any) -> np.ndarray | None:
        """Label indices (H, W), uint8 or uint16, if the model predicts them."""
        return None


class Detector(Predictor):
    """Boxes, masks and panoptic maps of mmdet.

    Args:
        cfg: Config with ``default_scope = "mmdet"``.
        checkpoint: Checkpoint file or address of the whole model.
        device: Where to run.
        score_thr: Predictions below this score are not drawn.
    """

    def __init__(
        self, cfg: Config, checkpoint: str, device: str, score_thr: float | None = None
    ) -> None:
        super().__init__(cfg, checkpoint, device)
        self.score_thr = DEFAULT_SCORE_THR if score_thr is None else score_thr

    def _build(self, cfg: Config, device: str) -> Any:
        from mmdet.apis import DetInferencer

        return DetInferencer(model=cfg, device=device, show_progress=False)

    def _set_classes(self, names: Sequence[str], palette: Any) -> None:
        # As mmdet does, the config's palette comes first.
        colours = self.inferencer.model.dataset_meta["palette"]
        if colours == "random" and palette is not None:
            colours = palette
        if not isinstance(colours, str) and len(colours) < len(names):
            colours = "random"
        meta = dict(classes=names, palette=colours)
        self.inferencer.model.dataset_meta = meta
        self.inferencer.visualizer.dataset_meta = meta

    def predict(self, image: str | np.ndarray) -> Any:
        result = self.inferencer(image, return_datasamples=True, no_save_vis=True)
        return result["predictions"][0]

    def draw(self, image: np.ndarray, sample: Any) -> np.ndarray:
        return self.inferencer.visualize(
            [image], [sample], return_vis=True, pred_score_thr=self.score_thr
        )[0]

    def describe(self, sample: Any) -> dict:
        return self.inferencer.pred2dict(sample)


class Segmentor(Predictor):
    """Label maps of mmseg."""

    predicts_label_maps = True

    def _build(self, cfg: Config, device: str) -> Any:
        from mmseg.apis import MMSegInferencer

        return MMSegInferencer(model=cfg, device=device, show_progress=False)

    def _set_classes(self, names: Sequence[str], palette: Any) -> None:
        if palette is None or len(palette) != len(names):
            palette = np.random.default_rng(42).integers(0, 256, (len(names), 3))
            palette = palette.tolist()
        self.inferencer.model.dataset_meta = dict(classes=names, palette=palette)

    def predict(self, image: str | np.ndarray) -> Any:
        return self.inferencer(image, return_datasamples=True)

    def draw(self, image: np.ndarray, sample: Any) -> np.ndarray:
        return self.inferencer.visualize(
            [image], [sample], return_vis=True, opacity=_SEG_OPACITY
        )[0]

    def describe(self, sample: Any) -> dict:
        """Which labels are in the map, and how many pixels each has."""
        labels, pixels = np.unique(self.label_map(sample), return_counts=True)
        return dict(labels=labels.tolist(), pixels=pixels.tolist())

    def label_map(self, sample: Any) -> np.ndarray:
        labels = sample.pred_sem_seg.data[0].cpu().numpy()
        return labels.astype(np.uint8 if labels.max() < 256 else np.uint16)


class Classifier(Predictor):
    """Classes of mmpretrain."""

    def _build(self, cfg: Config, device: str) -> Any:
        from mmpretrain import ImageClassificationInferencer
        from mmpretrain.visualization import UniversalVisualizer

        self._visualizer = UniversalVisualizer()
        return ImageClassificationInferencer(cfg, pretrained=False, device=device)

    def _set_classes(self, names: Sequence[str], palette: Any) -> None:
        self.inferencer.classes = names

    def predict(self, image: str | np.ndarray) -> Any:
        # Not by a call, which shows a progress bar for each image.
        (data,) = self.inferencer.preprocess([image])
        return self.inferencer.forward(data)[0]

    def draw(self, image: np.ndarray, sample: Any) -> np.ndarray:
        return self._visualizer.visualize_cls(
            image, sample, classes=self.inferencer.classes, draw_gt=False
        )

    def describe(self, sample: Any) -> dict:
        (described,) = self.inferencer.postprocess([sample], None)
        return dict(described, pred_scores=described["pred_scores"].tolist())


PREDICTORS: dict[str, type[Predictor]] = {
    "mmdet": Detector,
    "mmseg": Segmentor,
    "mmpretrain": Classifier,
}


def build_predictor(
    cfg: Config, checkpoint: str, device: str, score_thr: float | None
) -> Predictor:
    """Build the model of a config for inference.

    Args:
        cfg: As ``focal_mm.engine.cli.load_config`` returns it; not changed.
        checkpoint: Checkpoint file or address of the whole model.
        device: Where to run.
        score_thr: For detectors, the score from which predictions are drawn.

    Raises:
        UserError: If the checkpoint does not fit the config.
        focal_mm.checkpoint.CheckpointError: If it cannot be read.
    """
    if cfg.default_scope == "mmdet":
        return Detector(cfg, checkpoint, device, score_thr)
    return PREDICTORS[cfg.default_scope](cfg, checkpoint, device)


def num_classes(model: nn.Module) -> int | None:
    """How many classes a model predicts, where it can be told."""
    if hasattr(model, "panoptic_fusion_head"):
        # Things and stuff are counted in different heads.
        return None
    for path in _CLASSIFIERS:
        try:
            head = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(head, nn.ModuleList):
            head = head[-1]
        number = getattr(head, "num_classes", None)
        return number if isinstance(number, int) else None
    return None


def _prepared(cfg: Config) -> Config:
    """A copy that the inferencers understand, without what inference does not need."""
    cfg = deepcopy(cfg)
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset or "datasets" in dataset:
        dataset = dataset.get("dataset") or dataset.datasets[0]
    dataset.pipeline = [
        step
        for step in dataset.pipeline
        if type_name(step["type"]) not in _ANNOTATION_LOADERS
    ]
    cfg.test_dataloader.dataset = dataset
    if cfg.default_scope != "mmpretrain":
        kind = "Det" if cfg.default_scope == "mmdet" else "Seg"
        visualizer = cfg.get("visualizer") or dict(type=f"{kind}LocalVisualizer")
        # Nothing is sent to the backends of training.
        cfg.visualizer = dict(visualizer, vis_backends=None, save_dir=None)
    return cfg


def check_device(device: str) -> None:
    """Check that a device is there.

    Raises:
        UserError: If not.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {device} cannot be used: {reason}") from None
