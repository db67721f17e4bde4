# A config adds the backbone and its channels: see backbones/.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"
model = dict(backbone=dict(_delete_=True, out_indices=(0, 1, 2, 3)))
