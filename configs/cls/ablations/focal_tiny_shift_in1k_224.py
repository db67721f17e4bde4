# Focal-Tiny with shifted windows: the paper's table 8 (81.9 top-1).
_base_ = "../focal_tiny_in1k_224.py"
model = dict(backbone=dict(use_shift=True))
