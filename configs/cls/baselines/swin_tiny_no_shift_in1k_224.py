# Swin-Tiny with windows that are not shifted: the paper's table 8 (80.2 top-1).
_base_ = "./swin_tiny_in1k_224.py"
model = dict(backbone=dict(stage_cfgs=dict(block_cfgs=dict(shift=False))))
