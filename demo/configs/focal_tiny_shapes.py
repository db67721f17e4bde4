# Focal-Tiny on the toy shapes of `python -m demo.toy imagefolder`, trained from scratch
# in a few minutes on two CPU cores (configs/cls/README.md has the commands). Only data,
# image size, schedule and regularisation differ.
_base_ = "../../configs/cls/focal_tiny_in1k_224.py"

data_root = "work_dirs/demo_cls/data"
num_classes = 3
data_preprocessor = dict(num_classes=num_classes)
# So short a training needs no regularisation.
model = dict(
    backbone=dict(drop_path_rate=0.0),
    head=dict(
        num_classes=num_classes,
        loss=dict(_delete_=True, type="CrossEntropyLoss"),
        cal_acc=True,
    ),
    train_cfg=None,
)

size = dict(type="Resize", scale=56)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    size,
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), size, dict(type="PackInputs")]

# Any folder of class folders. Loading takes milliseconds: workers would only cost
# memory.
loader = dict(batch_size=16, num_workers=0, persistent_workers=False)
train_dataloader = dict(
    **loader,
    dataset=dict(
        _delete_=True,
        type="CustomDataset",
        data_root=data_root,
        data_prefix="train",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    **loader,
    dataset=dict(
        _delete_=True,
        type="CustomDataset",
        data_root=data_root,
        data_prefix="val",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(topk=1)
test_evaluator = val_evaluator

# Evaluated once, at the end.
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(
        type="CosineAnnealingLR",
        eta_min_ratio=0.02,
        by_epoch=True,
        begin=0,
        end=max_epochs,
        convert_to_iter_based=True,
    ),
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(max_keep_ckpts=1))
randomness = dict(seed=0)
