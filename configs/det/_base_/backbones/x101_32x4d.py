_base_ = "./r101.py"
backbone = dict(type="ResNeXt", groups=32, base_width=4)
pretraining = "open-mmlab://resnext101_32x4d"
