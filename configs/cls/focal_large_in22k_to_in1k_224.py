# Focal-Large, fine-tuned on ImageNet-1K. It makes no sense without the 22K weights:
# --cfg-options model.backbone.init_cfg.checkpoint=PATH
# The classifier starts anew. The paper gives no figure.
_base_ = [
    "_base_/models/classifier.py",
    "_base_/backbones/focal_large.py",
    "_base_/datasets/imagenet_224.py",
    "_base_/schedules/adamw_30e_finetune.py",
    "_base_/default_runtime.py",
]
pretraining = "focal_large_in22k_224"
model = dict(backbone=_base_.backbone, head=dict(in_channels=_base_.channels[-1]))
train_dataloader = dict(batch_size=64)
