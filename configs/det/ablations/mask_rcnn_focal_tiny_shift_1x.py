# Shifted windows, as in Swin: table 8 of the paper.
_base_ = "../mask_rcnn_focal_tiny_1x.py"
pretraining = "focal_tiny_shift_in1k_224"
model = dict(backbone=dict(use_shift=True))
