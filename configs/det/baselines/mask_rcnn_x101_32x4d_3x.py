# Mask R-CNN with ResNeXt-101-32x4d, 3x schedule: table 4 of the paper.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/backbones/x101_32x4d.py",
    "../_base_/datasets/coco_instance_ms.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
