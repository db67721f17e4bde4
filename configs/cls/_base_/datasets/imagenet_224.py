# ImageNet-1K as folders of classes, train/CLASS/*.JPEG and val/CLASS/*.JPEG, or with
# lists meta/train.txt and meta/val.txt. RandAugment (9, 0.5, 2) as in mmpretrain's Swin
# recipe; no random erasing (paper, section 4.1; docs/sources.md).
_base_ = "mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py"

train_pipeline = [
    dict(step, erase_prob=0.0) if step["type"] == "RandomErasing" else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(batch_size=128, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
