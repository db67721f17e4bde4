# ResNet-50 for comparison, as RepPoints trains it: 1x schedule, one image size, SGD.
# The paper's row (table 5) has the 3x schedule and the multi-scale training of
# reppointsv2_focal_tiny_3x.py.
_base_ = [
    "_base_/models/reppointsv2.py",
    "_base_/backbones/resnet50.py",
    "_base_/datasets/coco_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels[1:]))
optim_wrapper = dict(optimizer=dict(lr=0.01), clip_grad=dict(max_norm=35, norm_type=2))
