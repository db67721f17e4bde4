# Stochastic depth is that of Swin's published segmentors of every size.
_base_ = "../../../det/_base_/backbones/swin_tiny.py"
backbone = dict(drop_path_rate=0.3)
