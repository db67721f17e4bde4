# ATSS with DyHead, 2x schedule, 480-1200 x 2000: table 5 of the paper.
# ImageNet-22K weights: --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = [
    "_base_/models/atss_dyhead.py",
    "_base_/backbones/focal_large.py",
    "_base_/datasets/coco_detection_ms_480_1200.py",
    "_base_/schedules/adamw_2x.py",
    "_base_/tta/dyhead_ms.py",
    "_base_/default_runtime.py",
]
fpn, dyhead = _base_.model.neck
model = dict(
    backbone=_base_.backbone,
    neck=[dict(fpn, in_channels=_base_.channels[1:]), dyhead],
)
# DyHead's learning rate, not that of the other detectors (docs/sources.md).
optim_wrapper = dict(type="AmpOptimWrapper", optimizer=dict(lr=5e-5))
