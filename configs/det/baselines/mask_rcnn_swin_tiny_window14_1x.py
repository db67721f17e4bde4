# Mask R-CNN with Swin-Tiny and windows of 14, 1x schedule: table 7 of the paper.
# The last stage keeps the 7 that it has at 224x224.
_base_ = [
    "../_base_/models/mask_rcnn.py",
    "../_base_/backbones/swin_tiny_mmpretrain.py",
    "../_base_/datasets/coco_instance_swin.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]
custom_imports = dict(imports=[*_base_.custom_imports.imports, "mmpretrain.models"])
pretraining = "swin_tiny_window14_in1k_224"
model = dict(
    backbone=dict(
        _base_.backbone,
        window_size=14,
        stage_cfgs=[{}, {}, {}, dict(window_size=7)],
    ),
    neck=dict(in_channels=_base_.channels),
)
