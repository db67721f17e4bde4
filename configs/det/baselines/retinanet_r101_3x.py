# RetinaNet with ResNet-101, 3x schedule: table 4 of the paper.
_base_ = [
    "../_base_/models/retinanet.py",
    "../_base_/backbones/r101.py",
    "../_base_/datasets/coco_detection_ms.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
