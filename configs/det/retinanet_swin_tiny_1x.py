# Swin-Tiny under the recipe of retinanet_focal_tiny_1x.py: the paper trained it itself.
_base_ = [
    "_base_/models/retinanet.py",
    "_base_/backbones/swin_tiny.py",
    "_base_/datasets/coco_detection.py",
    "_base_/schedules/adamw_1x.py",
    "_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
