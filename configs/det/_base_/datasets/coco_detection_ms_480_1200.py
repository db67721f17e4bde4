# As DyHead's published Swin-Large recipe: any shorter side in training, the largest in
# testing.
_base_ = "./coco_detection.py"

resize = dict(type="RandomResize", scale=[(2000, 480), (2000, 1200)], keep_ratio=True)
train_pipeline = [*_base_.load, resize, *_base_.flip_and_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))

test_pipeline = [
    _base_.load[0],
    dict(type="Resize", scale=(2000, 1200), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
