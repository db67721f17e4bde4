# Focal-Tiny-Local: windows and the fine tokens around them (paper, figure 5).
_base_ = "../focal_tiny_in1k_224.py"
model = dict(backbone=dict(focal_levels=1))
