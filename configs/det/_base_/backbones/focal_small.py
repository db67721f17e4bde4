_base_ = ["./focal.py", "../../../_base_/sizes/small.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.3)
pretraining = "focal_small_in1k_224"
