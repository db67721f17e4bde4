# Focal-Large with 7, 14, 28, 56 heads, another reading of it (docs/sources.md).
_base_ = "../focal_large_in22k_224.py"
model = dict(backbone=dict(arch="large_196_7_heads"))
