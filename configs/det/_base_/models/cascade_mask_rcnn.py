# A config adds the backbone and its channels: see backbones/.
_base_ = ["mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py", "./conv_fc_heads.py"]
model = dict(
    backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3)),
    roi_head=dict(
        bbox_head=[
            dict(head, **_base_.conv_fc_head)
            for head in _base_.model.roi_head.bbox_head
        ]
    ),
)
