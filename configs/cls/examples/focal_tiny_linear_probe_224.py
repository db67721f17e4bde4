# An example, no row of the paper: a linear classifier on frozen features.
# --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = "../focal_tiny_in1k_224.py"
pretraining = "focal_tiny_in1k_224"

model = dict(
    backbone=dict(frozen_stages=4, drop_path_rate=0.0),
    head=dict(loss=dict(_delete_=True, type="CrossEntropyLoss"), cal_acc=True),
    train_cfg=None,
)
train_pipeline = [
    step for step in _base_.train_pipeline if step["type"] != "RandAugment"
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

epochs = 100
optim_wrapper = dict(
    _delete_=True,
    type="OptimWrapper",
    # Of 1024 images a step: 0.1 for 256.
    optimizer=dict(type="SGD", lr=0.4, momentum=0.9, weight_decay=0.0),
)
param_scheduler = [
    dict(
        type="CosineAnnealingLR",
        by_epoch=True,
        begin=0,
        end=epochs,
        convert_to_iter_based=True,
    )
]
train_cfg = dict(max_epochs=epochs)
