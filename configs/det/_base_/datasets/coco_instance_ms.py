# The paper's text is followed: "randomly resizing its shorter side to the range of
# [480, 800]", the longer at most 1333. The step of 32 is that of the recipe family it
# belongs to, which also crops every second image: coco_instance_ms_crop.py has that.
_base_ = "mmdet::_base_/datasets/coco_instance.py"

load = [
    dict(type="LoadImageFromFile", backend_args=_base_.backend_args),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
]
multi_scale = dict(
    type="RandomChoiceResize",
    scales=[(short, 1333) for short in range(480, 801, 32)],
    keep_ratio=True,
)
flip_and_pack = [dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")]

train_pipeline = [*load, multi_scale, *flip_and_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
