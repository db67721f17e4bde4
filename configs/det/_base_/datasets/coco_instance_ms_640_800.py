# As PVT's paper has it for 3x: the shorter side is any from 640 to 800.
_base_ = "./coco_instance.py"

resize = dict(type="RandomResize", scale=[(1333, 640), (1333, 800)], keep_ratio=True)
train_pipeline = [*_base_.load, resize, *_base_.flip_and_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
