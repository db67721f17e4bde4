# RetinaNet with PVT-Small, 3x schedule: table 4 of the paper.
_base_ = [
    "../_base_/models/retinanet.py",
    "../_base_/backbones/pvt_small.py",
    "../_base_/datasets/coco_detection_ms_640_800.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
# PVT's own.
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
