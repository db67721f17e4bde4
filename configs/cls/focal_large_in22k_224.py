# Focal-Large on ImageNet-22K: what the Focal-Large rows of detection and segmentation
# start from (paper, section 4.1). The paper gives no accuracy.
_base_ = [
    "_base_/models/classifier.py",
    "_base_/backbones/focal_large.py",
    "_base_/datasets/imagenet22k_224.py",
    "_base_/schedules/adamw_90e_22k.py",
    "_base_/default_runtime.py",
]
model = dict(
    backbone=_base_.backbone,
    head=dict(
        in_channels=_base_.channels[-1],
        num_classes=_base_.data_preprocessor.num_classes,
    ),
)
default_hooks = dict(checkpoint=dict(save_best=None))
