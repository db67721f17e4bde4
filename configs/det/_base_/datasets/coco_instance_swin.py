# Swin's published training pipeline, that of its 1x and 3x rows.
_base_ = "./coco_instance.py"

train_pipeline = [
    *_base_.load,
    dict(_base_.resize_choice, prob=[0.0, 0.5, 0.5]),
    *_base_.flip_and_pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
