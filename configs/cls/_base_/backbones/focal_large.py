# Stochastic depth: the paper gives none for this size; that of Swin-Large at 22K.
_base_ = ["./focal.py", "../../../_base_/sizes/large.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.2)
