# Stochastic depth: the paper's text (section 4.1). The released configs have 0.3:
# --cfg-options model.backbone.drop_path_rate=0.3
_base_ = ["./focal.py", "../../../_base_/sizes/small.py"]
backbone = dict(arch=_base_.arch, drop_path_rate=0.2)
