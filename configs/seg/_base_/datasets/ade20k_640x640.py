_base_ = "./ade20k_512x512.py"
train_pipeline = [
    *_base_.load,
    dict(
        type="RandomResize",
        scale=(2560, 640),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type="RandomCrop", crop_size=(640, 640), cat_max_ratio=0.75),
    *_base_.augment,
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2560, 640), keep_ratio=True),
    *_base_.load_truth_and_pack,
]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(
                    type="Resize",
                    scale=(int(2560 * ratio), int(640 * ratio)),
                    keep_ratio=True,
                )
                for ratio in _base_.ratios
            ],
            _base_.flips,
            *[[step] for step in _base_.load_truth_and_pack],
        ],
    ),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
