_base_ = ["./focal.py", "../../../_base_/sizes/tiny.py"]
backbone = dict(arch=_base_.arch)
pretraining = "focal_tiny_in1k_224"
