# Window size 14: table 7 of the paper. Nothing else changes (docs/sources.md).
_base_ = "../mask_rcnn_focal_tiny_1x.py"
pretraining = "focal_tiny_window14_in1k_224"
model = dict(backbone=dict(window_size=14))
