# Mask R-CNN with Swin-Tiny, 1x schedule: table 3 of the paper.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/backbones/swin_tiny.py",
    "../_base_/datasets/coco_instance_swin.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.1),
    neck=dict(in_channels=_base_.channels),
)
