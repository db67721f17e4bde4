# Trained on crops of 640x640, tested on windows of that size with a third of overlap.
_base_ = "./upernet.py"
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    test_cfg=dict(mode="slide", crop_size=(640, 640), stride=(426, 426)),
)
