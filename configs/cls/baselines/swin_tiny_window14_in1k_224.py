# Swin-Tiny with windows of 14: the paper's table 7 (82.1 top-1). The map of the last
# stage has 7x7 tokens only.
_base_ = "./swin_tiny_in1k_224.py"
model = dict(
    backbone=dict(window_size=14, stage_cfgs=[{}, {}, {}, dict(window_size=7)])
)
