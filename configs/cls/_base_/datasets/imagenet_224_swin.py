# Swin's augmentation: as imagenet_224.py, and random erasing.
_base_ = "mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py"

train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
