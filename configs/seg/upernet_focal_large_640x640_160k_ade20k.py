# UPerNet, Focal-Large: the paper's table 6 (54.0 mIoU, 55.4 multi-scale), from
# ImageNet-22K weights: --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = [
    "_base_/models/upernet_640.py",
    "_base_/backbones/focal_large.py",
    "_base_/datasets/ade20k_640x640.py",
    "_base_/schedules/adamw_160k.py",
    "_base_/default_runtime.py",
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
