# The Focal-Tiny row on the toy scenes of `python -m demo.toy ade`, trained from scratch
# in minutes on two CPU cores (configs/seg/README.md has the commands). Only data, image
# size, schedule and regularisation differ.
_base_ = "../../configs/seg/upernet_focal_tiny_512x512_160k_ade20k.py"

data_root = "work_dirs/demo_seg/data"
metainfo = dict(
    classes=("sky", "ground", "circle", "square", "triangle"),
    palette=[
        (160, 200, 255),
        (90, 120, 80),
        (255, 60, 60),
        (60, 255, 60),
        (60, 60, 255),
    ],
)
num_classes = len(metainfo["classes"])
# So short a training needs no regularisation.
model = dict(
    data_preprocessor=dict(size=(56, 56)),
    backbone=dict(drop_path_rate=0.0),
    decode_head=dict(num_classes=num_classes),
    auxiliary_head=dict(num_classes=num_classes),
)

train_pipeline = [
    *_base_.load,
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), *_base_.load_truth_and_pack]

# A data set of one's own in ADE20K's layout. Loading takes milliseconds: workers would
# only cost memory.
dataset = dict(
    type="BaseSegDataset",
    data_root=data_root,
    metainfo=metainfo,
    reduce_zero_label=True,
)
in_process = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    **in_process,
    batch_size=4,
    dataset=dict(**dataset, pipeline=train_pipeline),
)
val_dataloader = dict(**in_process, dataset=dict(**dataset, pipeline=test_pipeline))
test_dataloader = val_dataloader

# Evaluated once, at the end.
max_iters = 80
train_cfg = dict(max_iters=max_iters, val_interval=max_iters)
optim_wrapper = dict(optimizer=dict(lr=5e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=15),
    dict(
        type="PolyLR",
        power=1.0,
        eta_min=0.0,
        by_epoch=False,
        begin=15,
        end=max_iters,
    ),
]

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(interval=40, save_best=None),
)
log_processor = dict(window_size=10)
randomness = dict(seed=0)
