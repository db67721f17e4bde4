# As Swin's row of RepPoints V2: the shorter side is any in training, 800 in testing.
_base_ = "./coco_detection.py"

resize = dict(type="RandomResize", scale=[(1333, 480), (1333, 960)], keep_ratio=True)
train_pipeline = [*_base_.load, resize, *_base_.flip_and_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
