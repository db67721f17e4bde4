# Mask R-CNN, 3x schedule, multi-scale: the paper's table 4 (47.2 box AP, 42.7 mask AP).
# ImageNet-1K weights: --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = [
    "_base_/models/mask_rcnn.py",
    "_base_/backbones/focal_tiny.py",
    "_base_/datasets/coco_instance_ms.py",
    "_base_/schedules/adamw_3x.py",
    "_base_/default_runtime.py",
]
model = dict(
    backbone=_base_.focal_backbone, neck=dict(in_channels=_base_.focal_channels)
)
