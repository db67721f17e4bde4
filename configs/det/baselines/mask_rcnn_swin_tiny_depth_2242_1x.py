# Depths 2-2-4-2: table 9 of the paper.
_base_ = "./mask_rcnn_swin_tiny_1x.py"
pretraining = "swin_tiny_depth_2242_in1k_224"
model = dict(backbone=dict(depths=(2, 2, 4, 2)))
