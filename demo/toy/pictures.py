"""Pictures of a detector's predictions beside the ground truth."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.visualization import DetLocalVisualizer
from mmengine.dataset import BaseDataset, pseudo_collate
from rich.progress import track
from torch import nn

_TITLE_HEIGHT = 26


def draw_predictions(
    model: nn.Module,
    dataset: BaseDataset,
    indices: Iterable[int],
    out_dir: str | Path,
    score_thr: float = 0.4,
    zoom: int = 3,
) -> list[Path]:
    """Draw ground truth (left) and predictions (right), one PNG for each image.

    Args:
        model: A detector of mmdet in eval mode.
        dataset: With a test pipeline that keeps the annotations.
        indices: Which images of it.
        out_dir: Folder of the pictures; made where missing.
        score_thr: Predictions below this score are left out.
        zoom: Factor by which the images are enlarged, as labels need room.

    Returns:
        The files written, in order.
    """
    out_dir = Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    visualizer = DetLocalVisualizer(line_width=2, alpha=0.4)
    visualizer.dataset_meta = dataset.metainfo
    files = []
    for index in track(list(indices), "pictures"):
        image, sample = _predict_enlarged(model, dataset[index], zoom)
        image_path = Path(sample.img_path)
        panes = [
            _pane(visualizer, image, sample, title, score_thr, predicted)
            for title, predicted in (("ground truth", False), ("prediction", True))
        ]
        files.append(out_dir / f"{image_path.stem}.png")
        mmcv.imwrite(mmcv.rgb2bgr(np.hstack(panes)), str(files[-1]))
    return files


def _predict_enlarged(
    model: nn.Module, data: dict[str, Any], zoom: int
) -> tuple[np.ndarray, DetDataSample]:
    """Predict in the coordinates of the enlarged image, so that masks are smooth.

    Returns:
        The enlarged RGB image and its sample, annotations and predictions.
    """
    sample = data["data_samples"]
    height, width = (zoom * side for side in sample.ori_shape)
    scale = sample.img_shape[1] / width, sample.img_shape[0] / height
    sample.set_metainfo(dict(ori_shape=(height, width), scale_factor=scale))
    truth = sample.gt_instances
    truth.bboxes.rescale_((zoom, zoom))
    truth.masks = truth.masks.resize((height, width))
    with torch.no_grad():
        (sample,) = model.test_step(pseudo_collate([data]))
    image = mmcv.imread(sample.img_path, channel_order="rgb")
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC), sample


def _pane(
    visualizer: DetLocalVisualizer,
    image: np.ndarray,
    sample: DetDataSample,
    title: str,
    score_thr: float,
    predicted: bool,
) -> np.ndarray:
    visualizer.add_datasample(
        title,
        image,
        sample.cpu(),
        draw_gt=not predicted,
        draw_pred=predicted,
        pred_score_thr=score_thr,
    )
    strip = np.full((_TITLE_HEIGHT, image.shape[1], 3), 255, np.uint8)
    place, font = (8, _TITLE_HEIGHT - 8), cv2.FONT_HERSHEY_SIMPLEX
    cv2.putText(strip, title, place, font, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([strip, visualizer.get_image()])
