# The paper follows "the common practice" for ImageNet-22K: Swin's recipe, 90 epochs of
# 4096 images a step, without its random erasing (docs/sources.md).
_base_ = "./adamw_300e.py"
auto_scale_lr = dict(base_batch_size=4096)
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=0.001,
        by_epoch=True,
        begin=0,
        end=5,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineAnnealingLR",
        eta_min=1e-5,
        by_epoch=True,
        begin=5,
        end=90,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=90)
# There is no validation set.
val_cfg = test_cfg = None
