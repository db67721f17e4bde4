# Window and the fine tokens around it: Focal-Tiny-Local in figure 5 of the paper.
_base_ = "../mask_rcnn_focal_tiny_1x.py"
pretraining = "focal_tiny_local_only_in1k_224"
model = dict(backbone=dict(focal_levels=1))
