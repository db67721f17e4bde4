_base_ = "./swin_tiny.py"
backbone = dict(depths=(2, 2, 18, 2))
pretraining = "swin_small_in1k_224"
