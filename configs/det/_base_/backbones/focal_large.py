# Drop path is Base's, as all but the width; no source gives it, nor the heads
# (docs/sources.md). Activation checkpointing, because the images are large too.
_base_ = ["./focal.py", "../../../_base_/sizes/large.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.5, with_cp=True)
pretraining = "focal_large_in22k_224"
