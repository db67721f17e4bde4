_base_ = ["./focal.py", "../../../_base_/sizes/small.py"]
backbone = dict(arch=_base_.arch)
pretraining = "focal_small_in1k_224"
