_base_ = "./coco_detection.py"

train_pipeline = [*_base_.load, _base_.multi_scale_or_crop, *_base_.flip_and_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
