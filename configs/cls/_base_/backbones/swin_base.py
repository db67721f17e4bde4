_base_ = "../../../_base_/sizes/base.py"
backbone = dict(type="SwinTransformer", arch=_base_.arch, drop_path_rate=0.5)
