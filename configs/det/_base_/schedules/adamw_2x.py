_base_ = "./adamw_1x.py"
train_cfg = dict(max_epochs=24)
param_scheduler = [
    _base_.warm_up,
    dict(type="MultiStepLR", by_epoch=True, end=24, milestones=[16, 22], gamma=0.1),
]
