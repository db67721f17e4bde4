# Mask R-CNN with PVT-Small, 1x schedule: table 3 of the paper.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/backbones/pvt_small.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
# PVT's own, of its configs: its text has 1e-4 for all detectors.
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
