# Sparse R-CNN, 3x schedule, multi-scale (arXiv version of the paper, table 5).
_base_ = [
    "_base_/models/sparse_rcnn.py",
    "_base_/backbones/focal_tiny.py",
    "_base_/datasets/coco_detection_ms.py",
    "_base_/schedules/sparse_rcnn_3x.py",
    "_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
