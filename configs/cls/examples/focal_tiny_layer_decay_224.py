# An example, no row of the paper: fine-tuning with a learning rate that falls from the
# classifier to the stem by a factor for each block.
# --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = "../focal_tiny_in1k_224.py"
pretraining = "focal_tiny_in1k_224"

epochs = 30
optim_wrapper = dict(
    constructor="LearningRateDecayOptimWrapperConstructor",
    optimizer=dict(lr=5e-4),
    paramwise_cfg=dict(layer_decay_rate=0.8),
)
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
        eta_min_ratio=0.01,
        by_epoch=True,
        begin=5,
        end=epochs,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=epochs)
