# Windows of 12, for 384x384. The fine region grows with the window, from 13 tokens to
# 22, so that the position biases interpolated from 224x224 keep their meaning.
_base_ = "./focal_large.py"
backbone = dict(window_size=12, expand_sizes=(5, 5, 5, 0))
