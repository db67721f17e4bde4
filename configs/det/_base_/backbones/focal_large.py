# "[...] increasing the hidden dimension in Focal-Base from 128 to 196 while keeping all
# the other hyperparameters the same" (paper, section 4.1). The parameter counts of the
# detection rows agree (docs/complexity.md). Swin-Large's width: --cfg-options
# model.backbone.arch=large_192 and the neck's in_channels, 192 * 2**stage.
# Activation checkpointing, because the images are large too.
_base_ = "./focal_base.py"
backbone = dict(arch="large", with_cp=True)
channels = [196 * 2**stage for stage in range(4)]
