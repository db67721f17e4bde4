# RetinaNet with Swin-Small, 3x schedule: table 4 of the paper, whose authors
# trained it like Focal's.
_base_ = [
    "../_base_/models/retinanet.py",
    "../_base_/backbones/swin_small.py",
    "../_base_/datasets/coco_detection_ms.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/default_runtime.py",
]
model = dict(
    backbone=dict(_base_.backbone, drop_path_rate=0.3),
    neck=dict(in_channels=_base_.channels[1:]),
)
