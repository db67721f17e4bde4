# A config adds the backbone's size: see backbones/.
_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"
model = dict(backbone=dict(_delete_=True, type="FocalTransformer"))
