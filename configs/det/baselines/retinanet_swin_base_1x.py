# RetinaNet with Swin-Base, 1x schedule: table 3 of the paper, whose authors
# trained it like Focal's.
_base_ = [
    "../_base_/models/retinanet.py",
    "../_base_/backbones/swin_base.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/adamw_1x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.5),
    neck=dict(in_channels=_base_.channels[1:]),
)
