# Mask R-CNN with Swin-Tiny without shifted windows, 1x schedule: table 8 of the paper.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/backbones/swin_tiny_mmpretrain.py",
    "../_base_/datasets/coco_instance_swin.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]
custom_imports = dict(imports=[*_base_.custom_imports.imports, "mmpretrain.models"])
pretraining = "swin_tiny_no_shift_in1k_224"
model = dict(
    backbone=dict(_base_.backbone, stage_cfgs=dict(block_cfgs=dict(shift=False))),
    neck=dict(in_channels=_base_.channels),
)
