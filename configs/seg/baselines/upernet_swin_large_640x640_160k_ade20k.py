# UPerNet, Swin-Large: the paper's table 6 (52.1 mIoU, 53.5 multi-scale).
_base_ = [
    "../_base_/models/upernet_640.py",
    "../_base_/backbones/swin_large.py",
    "../_base_/datasets/ade20k_640x640.py",
    "../_base_/schedules/adamw_160k.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=_base_.backbone,
    decode_head=dict(in_channels=_base_.channels),
    auxiliary_head=dict(in_channels=_base_.channels[2]),
)
