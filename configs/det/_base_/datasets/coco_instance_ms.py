_base_ = "./coco_instance.py"

train_pipeline = [
    *_base_.load,
    dict(_base_.resize_choice, prob=[0.0, 1.0, 0.0]),
    *_base_.flip_and_pack,
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
