# Swin-Small: the paper's table 2 (83.1 top-1).
_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/backbones/swin_small.py",
    "../_base_/datasets/imagenet_224_erasing.py",
    "../_base_/schedules/adamw_300e.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
