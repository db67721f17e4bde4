# Window and pooled tokens: Focal-Tiny-Global in figure 5 of the paper.
_base_ = "../mask_rcnn_focal_tiny_1x.py"
pretraining = "focal_tiny_global_only_in1k_224"
model = dict(backbone=dict(expand_sizes=(0, 0, 0, 0)))
