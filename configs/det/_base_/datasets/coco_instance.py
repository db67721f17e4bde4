_base_ = ["mmdet::_base_/datasets/coco_instance.py", "./augmentation.py"]

load = [
    dict(type="LoadImageFromFile", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
]
train_pipeline = [*load, _base_.resize_choice, *_base_.flip_and_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
