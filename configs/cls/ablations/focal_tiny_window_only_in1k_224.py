# Focal-Tiny-Window: attention inside each window only (paper, figure 5: 80.1 top-1).
_base_ = "../focal_tiny_in1k_224.py"
model = dict(backbone=dict(focal_levels=1, expand_sizes=0))
