# Trained on crops of 640x640. Whole images are tested, as at 512x512 (docs/sources.md);
# on windows with a third of overlap: --cfg-options model.test_cfg.mode=slide
_base_ = "./upernet.py"
model = dict(
    data_preprocessor=dict(size=(640, 640)),
    test_cfg=dict(crop_size=(640, 640), stride=(426, 426)),
)
