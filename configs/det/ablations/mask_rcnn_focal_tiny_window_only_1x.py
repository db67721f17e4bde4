# Queries see their window alone: Focal-Tiny-Window in figure 5 of the paper.
_base_ = "../mask_rcnn_focal_tiny_1x.py"
pretraining = "focal_tiny_window_only_in1k_224"
model = dict(backbone=dict(focal_levels=1, expand_sizes=(0, 0, 0, 0)))
