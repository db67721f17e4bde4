# Box heads of four shared convolutions and one linear layer; boxes are decoded before a
# GIoU loss. A config adds the backbone and its channels: see backbones/.
_base_ = "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py"

conv_fc_head = dict(
    type="ConvFCBBoxHead",
    num_shared_convs=4,
    num_shared_fcs=1,
    conv_out_channels=256,
    norm_cfg=dict(type="SyncBN", requires_grad=True),
    reg_class_agnostic=False,
    reg_decoded_bbox=True,
    loss_bbox=dict(type="GIoULoss", loss_weight=10.0),
)
model = dict(
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3)),
    roi_head=dict(
        bbox_head=[
            dict(head, **conv_fc_head) for head in _base_.model.roi_head.bbox_head
        ]
    ),
)
