# Multi-scale training with the random crop of DETR, as in the released recipes of the
# family: either (a) the multi-scale resize, or (b) a resize, a crop, and then (a).
_base_ = "./coco_instance_ms.py"

resize_or_crop = dict(
    type="RandomChoice",
    transforms=[
        [_base_.multi_scale],
        [
            dict(
                type="RandomChoiceResize",
                scales=[(400, 1333), (500, 1333), (600, 1333)],
                keep_ratio=True,
            ),
            dict(
                type="RandomCrop",
                crop_type="absolute_range",
                crop_size=(384, 600),
                allow_negative_crop=True,
            ),
            _base_.multi_scale,
        ],
    ],
)

train_pipeline = [*_base_.load, resize_or_crop, *_base_.flip_and_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
