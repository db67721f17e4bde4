# HTC++, 3x schedule, 400-1400 x 1600, InstaBoost: table 5 of the paper.
# ImageNet-22K weights: --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = [
    "_base_/models/htc_plusplus.py",
    "_base_/backbones/focal_large.py",
    "_base_/datasets/coco_instance_semantic_ms.py",
    "_base_/schedules/adamw_3x.py",
    "_base_/tta/htc_ms.py",
    "_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(weight_decay=0.1))
