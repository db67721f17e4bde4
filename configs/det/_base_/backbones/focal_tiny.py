_base_ = ["./focal.py", "../../../_base_/sizes/tiny.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.2)
pretraining = "focal_tiny_in1k_224"
