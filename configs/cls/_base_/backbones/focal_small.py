# Stochastic depth: the paper's text (section 4.1), not the released configs'
# (docs/sources.md).
_base_ = ["./focal.py", "../../../_base_/sizes/small.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.2)
