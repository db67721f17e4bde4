# Focal-fast-Small: the released README (83.6 top-1).
_base_ = "./focal_small_conv_in1k_224.py"
model = dict(backbone=dict(key_selection="topk", focal_windows=None, expand_sizes=None))
