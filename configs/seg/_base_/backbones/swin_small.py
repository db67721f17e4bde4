_base_ = "../../../det/_base_/backbones/swin_small.py"
backbone = dict(drop_path_rate=0.3)
