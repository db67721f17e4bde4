# With the random erasing of the released configs, and of Swin's.
_base_ = "./imagenet_224.py"

train_pipeline = [
    dict(step, erase_prob=0.25) if step["type"] == "RandomErasing" else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
