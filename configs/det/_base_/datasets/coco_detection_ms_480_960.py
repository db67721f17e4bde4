# As Swin's row of RepPoints V2: 16 shorter sides in training, 800 in testing.
_base_ = "./coco_detection.py"

resize = dict(
    type="RandomChoiceResize",
    scales=[(short, 1333) for short in range(480, 961, 32)],
    keep_ratio=True,
)
train_pipeline = [*_base_.load, resize, *_base_.flip_and_pack]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
