# As at 224x224, but test images are squeezed to 384x384, not cropped.
_base_ = "./imagenet_224.py"

train_pipeline = [
    dict(step, scale=384) if step["type"] == "RandomResizedCrop" else step
    for step in _base_.train_pipeline
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=384, backend="pillow", interpolation="bicubic"),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
