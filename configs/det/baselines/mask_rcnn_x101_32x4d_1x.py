# Mask R-CNN with ResNeXt-101-32x4d, 1x schedule: table 3 of the paper.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/backbones/x101_32x4d.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
