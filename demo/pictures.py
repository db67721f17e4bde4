"""Pictures of a detector's predictions beside the ground truth."""

from itertools import islice
from pathlib import Path

import mmcv
from mmdet.apis import inference_detector, init_detector
from mmdet.registry import DATASETS
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config
from mmengine.device import get_device
from rich.progress import track

SCORE_THR = 0.4
ZOOM = 3
"""Factor by which the images are enlarged, as labels need room."""


def draw_predictions(cfg: Config, checkpoint: Path, number: int, out_dir: Path) -> None:
    """Draw ground truth (left) and predictions (right) of the first test images.

    Args:
        cfg: Config of a detector of mmdet whose test pipeline keeps the annotations.
        checkpoint: Its weights.
        number: How many images, at most.
        out_dir: Folder of the pictures, one PNG for each image; made where missing.
    """
    model = init_detector(cfg, str(checkpoint), device=get_device())
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    visualizer = DetLocalVisualizer(line_width=2, alpha=0.4)
    visualizer.dataset_meta = dataset.metainfo
    total = min(number, len(dataset))
    for data in track(islice(dataset, total), "pictures", total):
        truth = data["data_samples"]
        path = Path(truth.img_path)
        image = mmcv.imrescale(mmcv.imread(path), ZOOM, interpolation="bicubic")
        # Predicted in the coordinates of the enlarged image, so that masks are smooth.
        sample = inference_detector(model, image)
        instances = truth.gt_instances
        instances.bboxes = ZOOM * instances.bboxes.tensor
        instances.masks = instances.masks.rescale(ZOOM)
        sample.gt_instances = instances
        visualizer.add_datasample(
            path.stem,
            mmcv.bgr2rgb(image),
            sample.cpu(),
            pred_score_thr=SCORE_THR,
            out_file=str(out_dir / f"{path.stem}.png"),
        )
