# Focal-Tiny with convolutional embedding: the released README (82.7 top-1).
_base_ = "./focal_tiny_in1k_224.py"
model = dict(backbone=dict(use_conv_embed=True))
