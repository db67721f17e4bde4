_base_ = ["./focal.py", "../../../_base_/sizes/large.py"]
backbone = dict(arch=_base_.arch)
pretraining = "focal_large_in22k_224"
