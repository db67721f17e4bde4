# Focal-Large with Swin-Large's width and heads, another reading of it
# (docs/sources.md).
_base_ = "../focal_large_in22k_224.py"
model = dict(backbone=dict(arch="large_192"), head=dict(in_channels=192 * 8))
