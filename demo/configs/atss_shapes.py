# ATSS on toy shapes of half the size in pixels, with a narrow backbone, neck and head:
# what `python -m benchmarks.from_swin` trains again and again on a CPU.
_base_ = [
    "../../configs/det/_base_/models/atss.py",
    "../../configs/det/_base_/backbones/focal.py",
    "_base_/shapes.py",
]
width = 64
channels = [48 * 2**stage for stage in range(4)]

# Every stage has a shifted block where the backbone is a Swin.
model = dict(
    backbone=dict(
        **_base_.backbone,
        arch=dict(embed_dims=48, depths=[2, 2, 2, 2], num_heads=[3, 6, 12, 24]),
        drop_path_rate=0.0,
    ),
    neck=dict(in_channels=channels[1:], out_channels=width),
    bbox_head=dict(
        num_classes=_base_.num_classes,
        in_channels=width,
        feat_channels=width,
        stacked_convs=2,
        anchor_generator=dict(octave_base_scale=4),
    ),
)

resize = dict(type="Resize", scale=(128, 128), keep_ratio=True)
train_pipeline = [*_base_.load, resize, *_base_.flip_and_pack]
test_pipeline = [_base_.test_pipeline[0], resize, *_base_.test_pipeline[2:]]
train_dataloader = dict(batch_size=4, dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_evaluator = dict(metric="bbox")

max_iters = 600
train_cfg = dict(max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
warm_up, cosine = _base_.param_scheduler
param_scheduler = [warm_up, dict(cosine, end=max_iters)]
