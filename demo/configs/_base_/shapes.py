# What the demos share: the toy shapes of `python -m demo.toy coco`, small images, and a
# schedule of minutes on two CPU cores. A config adds detector and backbone.
_base_ = [
    "../../../configs/det/_base_/datasets/coco_instance_ms.py",
    "../../../configs/det/_base_/schedules/adamw_3x.py",
    "../../../configs/det/_base_/default_runtime.py",
]

data_root = "work_dirs/demo/data/"
metainfo = dict(
    classes=("circle", "square", "triangle"),
    palette=[(255, 225, 25), (0, 200, 255), (255, 80, 170)],
)
num_classes = len(metainfo["classes"])

resize = dict(type="Resize", scale=(192, 192), keep_ratio=True)
train_pipeline = [
    *_base_.load,
    resize,
    *_base_.flip_and_pack,
]
test_pipeline = [
    dict(type="LoadImageFromFile", backend_args=_base_.backend_args),
    resize,
    *_base_.test_pipeline[2:],
]

# Loading takes milliseconds: workers would only cost memory.
in_process = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(
    **in_process,
    batch_size=1,
    sampler=dict(type="InfiniteSampler"),
    batch_sampler=None,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=train_pipeline),
)
test_dataloader = dict(
    **in_process,
    dataset=dict(data_root=data_root, metainfo=metainfo, pipeline=test_pipeline),
)
test_evaluator = dict(ann_file=data_root + "annotations/instances_val2017.json")
# Evaluated once, at the end, by tools/dist_test.sh.
val_dataloader = None
val_evaluator = None
val_cfg = None

max_iters = 320
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=2e-4), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=30),
    dict(
        type="CosineAnnealingLR",
        by_epoch=False,
        begin=30,
        end=max_iters,
        eta_min_ratio=0.02,
    ),
]

default_hooks = dict(
    logger=dict(interval=10),
    checkpoint=dict(by_epoch=False, interval=50, save_best=None),
)
log_processor = dict(by_epoch=False, window_size=10)
randomness = dict(seed=0)
