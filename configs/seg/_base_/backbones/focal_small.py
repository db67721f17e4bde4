_base_ = ["./focal.py", "../../../_base_/sizes/small.py"]
backbone = dict(arch=_base_.arch)
