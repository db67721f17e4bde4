# Focal-Base with convolutional embedding: the released README (84.2 top-1).
_base_ = "./focal_base_in1k_224.py"
model = dict(backbone=dict(use_conv_embed=True))
