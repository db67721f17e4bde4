# ResNet-50 under the recipe of mask_rcnn_focal_tiny_3x.py, for comparison.
_base_ = [
    "_base_/models/mask_rcnn.py",
    "_base_/backbones/resnet50.py",
    "_base_/datasets/coco_instance_ms.py",
    "_base_/schedules/adamw_3x.py",
    "_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
