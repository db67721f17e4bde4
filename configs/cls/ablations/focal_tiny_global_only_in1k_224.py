# Focal-Tiny-Global: windows and coarse tokens (paper, figure 5).
_base_ = "../focal_tiny_in1k_224.py"
model = dict(backbone=dict(expand_sizes=0))
