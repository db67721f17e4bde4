# A config adds the backbone and the channels of its last three stages.
_base_ = "mmdet::_base_/models/retinanet_r50_fpn.py"
model = dict(
    backbone=dict(_delete_=True, out_indices=(1, 2, 3)), neck=dict(start_level=0)
)
