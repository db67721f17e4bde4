# Mask R-CNN with Focal-Tiny on toy shapes, trained from scratch: `make demo`. Data,
# image size, schedule and the number of regions per image differ from those of
# mask_rcnn_focal_tiny_3x.py; the latter decide the time of a step.
_base_ = [
    "../../configs/det/_base_/models/mask_rcnn.py",
    "../../configs/det/_base_/backbones/focal_tiny.py",
    "_base_/shapes.py",
]
model = dict(
    backbone=_base_.backbone,
    neck=dict(in_channels=_base_.channels),
    roi_head=dict(
        bbox_head=dict(num_classes=_base_.num_classes),
        mask_head=dict(num_classes=_base_.num_classes),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=500, max_per_img=200),
        rcnn=dict(sampler=dict(num=64, pos_fraction=0.125)),
    ),
    test_cfg=dict(
        rpn=dict(nms_pre=500, max_per_img=100),
        rcnn=dict(max_per_img=30),
    ),
)
