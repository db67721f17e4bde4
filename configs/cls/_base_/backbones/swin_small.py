_base_ = "../../../_base_/sizes/small.py"
backbone = dict(type="SwinTransformer", arch=_base_.arch, drop_path_rate=0.3)
