# Hybrid Task Cascade with a semantic branch and soft-NMS. The paper does not describe
# its box heads: two linear layers, and a box for each class (docs/sources.md).
# A config adds the backbone and its channels.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

mask_head = dict(
    type="HTCMaskHead",
    num_convs=4,
    in_channels=256,
    conv_out_channels=256,
    num_classes=80,
    loss_mask=dict(type="CrossEntropyLoss", use_mask=True, loss_weight=1.0),
)
model = dict(
    type="HybridTaskCascade",
    data_preprocessor=dict(pad_seg=True),
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3)),
    roi_head=dict(
        type="HybridTaskCascadeRoIHead",
        interleaved=True,
        mask_info_flow=True,
        bbox_head=[
            dict(
                head,
                type="ConvFCBBoxHead",
                num_shared_convs=0,
                num_shared_fcs=2,
                reg_class_agnostic=False,
            )
            for head in _base_.model.roi_head.bbox_head
        ],
        mask_head=[dict(mask_head, with_conv_res=False), mask_head, mask_head],
        semantic_roi_extractor=dict(
            type="SingleRoIExtractor",
            roi_layer=dict(type="RoIAlign", output_size=14, sampling_ratio=0),
            out_channels=256,
            featmap_strides=[8],
        ),
        semantic_head=dict(
            type="FusedSemanticHead",
            num_ins=5,
            fusion_level=1,
            seg_scale_factor=1 / 8,
            num_convs=4,
            in_channels=256,
            conv_out_channels=256,
            num_classes=183,
            loss_seg=dict(type="CrossEntropyLoss", ignore_index=255, loss_weight=0.2),
        ),
    ),
    test_cfg=dict(
        rcnn=dict(score_thr=0.001, nms=dict(type="soft_nms", iou_threshold=0.5))
    ),
)
