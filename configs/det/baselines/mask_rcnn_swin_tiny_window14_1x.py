# Window size 14: table 7 of the paper.
_base_ = "./mask_rcnn_swin_tiny_1x.py"
pretraining = "swin_tiny_window14_in1k_224"
model = dict(backbone=dict(window_size=14))
