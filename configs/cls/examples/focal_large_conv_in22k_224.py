# Focal-Large with convolutional embedding, another reading of it (docs/sources.md).
_base_ = "../focal_large_in22k_224.py"
model = dict(backbone=dict(use_conv_embed=True))
