# Mask R-CNN with Swin-Tiny, 3x schedule: table 4 of the paper.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/backbones/swin_tiny.py",
    "../_base_/datasets/coco_instance_swin.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
