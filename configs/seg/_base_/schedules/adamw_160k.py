# 16 images a step (8 GPUs x 2); --auto-scale-lr adapts the learning rate to another
# number. Rate, decay and length are the paper's (section 4.3), the warm-up is that of
# the recipe it follows. fp16 is chosen on the command line: --amp.
auto_scale_lr = dict(enable=False, base_batch_size=16)

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    # Substrings of parameter names: the second covers the tables of all focal levels.
    paramwise_cfg=dict(
        custom_keys={
            "absolute_pos_embed": dict(decay_mult=0.0),
            "relative_position_bias_table": dict(decay_mult=0.0),
            "norm": dict(decay_mult=0.0),
        }
    ),
)

max_iters = 160000
warm_up = dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500)
param_scheduler = [
    warm_up,
    dict(
        type="PolyLR",
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=1500,
        end=max_iters,
    ),
]

train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=16000)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
