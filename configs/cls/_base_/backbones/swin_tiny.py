# Stochastic depth, here and of the other sizes, is Swin's own.
_base_ = "../../../_base_/sizes/tiny.py"
backbone = dict(type="SwinTransformer", arch=_base_.arch, drop_path_rate=0.2)
