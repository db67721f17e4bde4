# Focal-fast-Base: the released README (84.0 top-1).
_base_ = "./focal_base_conv_in1k_224.py"
model = dict(backbone=dict(key_selection="topk", focal_windows=None, expand_sizes=None))
