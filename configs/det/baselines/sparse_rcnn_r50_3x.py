# Sparse R-CNN with ResNet-50, 3x schedule (arXiv version of the paper, table 5).
_base_ = [
    "../_base_/models/sparse_rcnn.py",
    "../_base_/backbones/r50.py",
    "../_base_/datasets/coco_detection_swin.py",
    "../_base_/schedules/sparse_rcnn_3x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
