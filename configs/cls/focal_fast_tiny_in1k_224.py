# Focal-fast-Tiny: the released README (82.4 top-1).
_base_ = "./focal_tiny_conv_in1k_224.py"
model = dict(backbone=dict(key_selection="topk", focal_windows=None, expand_sizes=None))
