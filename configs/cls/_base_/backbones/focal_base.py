# Stochastic depth: the paper's text (section 4.1). The released configs have 0.5:
# --cfg-options model.backbone.drop_path_rate=0.5
_base_ = ["./focal.py", "../../../_base_/sizes/base.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.3)
