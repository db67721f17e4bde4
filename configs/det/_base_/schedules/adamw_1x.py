# 16 images a step (8 GPUs x 2); --auto-scale-lr adapts the learning rate to another
# number. Gradients are not clipped. fp16 is chosen on the command line: --amp.
auto_scale_lr = dict(enable=False, base_batch_size=16)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    # Substrings of parameter names: the second covers the tables of all focal levels.
    paramwise_cfg=dict(
        custom_keys={
            "absolute_pos_embed": dict(decay_mult=0.0),
            "relative_position_bias_table": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    ),
)

warm_up = dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500)
param_scheduler = [
    warm_up,
    dict(type="MultiStepLR", by_epoch=True, end=12, milestones=[8, 11], gamma=0.1),
]

train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=12, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
