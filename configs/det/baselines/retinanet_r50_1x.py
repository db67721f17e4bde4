# RetinaNet with ResNet-50, 1x schedule: table 3 of the paper.
_base_ = [
    "../_base_/models/retinanet.py",
    "../_base_/backbones/r50.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
