_base_ = ["./focal.py", "../../../_base_/sizes/base.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.5)
pretraining = "focal_base_in1k_224"
