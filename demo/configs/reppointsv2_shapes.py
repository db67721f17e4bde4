# RepPoints V2 on toy shapes, trained from scratch in minutes on a CPU: a shallow and
# narrow backbone, neck and head decide the time of a step. The foreground is taught by
# the shapes' masks.
_base_ = [
    "../../configs/det/_base_/models/reppointsv2.py",
    "../../configs/det/_base_/backbones/focal.py",
    "_base_/shapes.py",
]
width = 64
channels = [48 * 2**stage for stage in range(4)]

model = dict(
    backbone=dict(
        **_base_.backbone,
        arch=dict(embed_dims=48, depths=[1, 1, 2, 1], num_heads=[2, 4, 8, 16]),
    ),
    neck=dict(in_channels=channels[1:], out_channels=width),
    bbox_head=dict(
        num_classes=_base_.num_classes,
        in_channels=width,
        feat_channels=width,
        point_feat_channels=width,
    ),
)
train_dataloader = dict(batch_size=2)
test_evaluator = dict(metric="bbox")

max_iters = 840
train_cfg = dict(max_iters=max_iters)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
warm_up, cosine = _base_.param_scheduler
param_scheduler = [warm_up, dict(cosine, end=max_iters)]
