# UPerNet, Swin-Tiny: the paper's table 6 (44.5 mIoU, 45.8 multi-scale).
_base_ = [
    "../_base_/models/upernet.py",
    "../_base_/backbones/swin_tiny.py",
    "../_base_/datasets/ade20k_512x512.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
