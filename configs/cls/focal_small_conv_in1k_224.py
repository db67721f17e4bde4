# Focal-Small with convolutional embedding: the released README (83.8 top-1).
_base_ = "./focal_small_in1k_224.py"
model = dict(backbone=dict(use_conv_embed=True))
