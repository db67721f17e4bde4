_base_ = ["./focal.py", "../../../_base_/sizes/base.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.5)
