# Focal-Tiny with windows of 14: the paper's table 7 (82.3 top-1). The third stage's map
# is one window then, and the last's is smaller. The expansion does not change
# (docs/sources.md).
_base_ = "../focal_tiny_in1k_224.py"
model = dict(backbone=dict(window_size=(14, 14, 14, 7), expand_sizes=(3, 3, 0, 0)))
