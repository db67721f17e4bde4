# As focal_large_in22k_to_in1k_224, at 384x384 in windows of 12: the position biases of
# the 22K weights are interpolated when they are loaded.
_base_ = [
    "_base_/models/classifier.py",
    "_base_/backbones/focal_large_384.py",
    "_base_/datasets/imagenet_384.py",
    "_base_/schedules/adamw_30e_finetune.py",
    "_base_/default_runtime.py",
]
pretraining = "focal_large_in22k_224"
model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
train_dataloader = dict(batch_size=64)
