# Drop path is Base's, as all but the width. Swin-Large's width instead: --cfg-options
# model.backbone.arch=large_192 and the neck's in_channels, 192 * 2**stage.
# Activation checkpointing, because the images are large too.
_base_ = ["./focal.py", "../../../_base_/sizes/large.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.5, with_cp=True)
pretraining = "focal_large_in22k_224"
