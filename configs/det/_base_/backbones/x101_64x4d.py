_base_ = "./r101.py"
backbone = dict(type="ResNeXt", groups=64, base_width=4)
pretraining = "open-mmlab://resnext101_64x4d"
