# RepPoints V2 with BiFPN, quality focal loss and GIoU, as in Swin's detection
# repository: docs/reppointsv2.md. A config adds the backbone and the channels of its
# last three stages.
norm_cfg = dict(type="GN", num_groups=32)
model = dict(
    type="RepPointsV2",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(out_indices=(1, 2, 3)),
    neck=dict(
        type="BiFPN",
        out_channels=256,
        num_outs=5,
        num_repeats=2,
        norm_cfg=norm_cfg,
    ),
    bbox_head=dict(
        type="RepPointsV2Head",
        num_classes=80,
        in_channels=256,
        feat_channels=256,
        point_feat_channels=256,
        stacked_convs=3,
        num_shared_convs=1,
        corner_channels=64,
        num_points=9,
        gradient_mul=0.1,
        point_strides=[8, 16, 32, 64, 128],
        point_base_scale=4,
        norm_cfg=norm_cfg,
        loss_cls=dict(
            type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0
        ),
        loss_bbox_init=dict(type="GIoULoss", loss_weight=1.0),
        loss_bbox_refine=dict(type="GIoULoss", loss_weight=2.0),
        loss_heatmap=dict(
            type="GaussianFocalLoss", alpha=2.0, gamma=4.0, loss_weight=0.25
        ),
        loss_offset=dict(type="SmoothL1Loss", beta=1.0 / 9.0, loss_weight=1.0),
        loss_foreground=dict(
            type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=0.1
        ),
    ),
    train_cfg=dict(
        init=dict(assigner=dict(type="PointAssigner", scale=4, pos_num=1)),
        refine=dict(assigner=dict(type="ATSSAssigner", topk=9)),
        corner=dict(min_iou=0.7),
    ),
    test_cfg=dict(
        joint_inference=True,
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=100,
    ),
)
