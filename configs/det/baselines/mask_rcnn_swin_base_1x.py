# Mask R-CNN with Swin-Base, 1x schedule: table 3 of the paper. Swin's authors
# publish no such row: pipeline and stochastic depth are those of their others.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/backbones/swin_base.py",
    "../_base_/datasets/coco_instance_swin.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
