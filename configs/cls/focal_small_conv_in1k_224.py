# Focal-Small with convolutional embedding: the released README (83.8 top-1) and its
# config, not the paper's stochastic depth and augmentation (docs/sources.md).
_base_ = [
    "_base_/models/classifier.py",
    "_base_/backbones/focal_small.py",
    "_base_/datasets/imagenet_224_erasing.py",
    "_base_/schedules/adamw_300e.py",
    "_base_/default_runtime.py",
]
model = dict(
    backbone=dict(_base_.backbone, use_conv_embed=True, drop_path_rate=0.3),
    head=dict(in_channels=_base_.channels[-1]),
)
