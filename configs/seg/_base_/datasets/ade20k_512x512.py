# ADE20K (SceneParsing, 150 classes). Label 0 of its files is "other objects": it is
# ignored, and labels 1 to 150 become 0 to 149 (reduce_zero_label of ADE20KDataset).
load = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]
augment = [
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
train_pipeline = [
    *load,
    dict(
        type="RandomResize",
        scale=(2048, 512),
        ratio_range=(0.5, 2.0),
        keep_ratio=True,
    ),
    dict(type="RandomCrop", crop_size=(512, 512), cat_max_ratio=0.75),
    *augment,
]
# Predictions are compared at the image's own size: annotations are not resized.
load_truth_and_pack = [dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    *load_truth_and_pack,
]

# Ratios of the single scale (paper, section 4.3), each with and without a flip.
ratios = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
flips = [dict(type="RandomFlip", prob=prob) for prob in (0.0, 1.0)]
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(
                    type="Resize",
                    scale=(int(2048 * ratio), int(512 * ratio)),
                    keep_ratio=True,
                )
                for ratio in ratios
            ],
            flips,
            *[[step] for step in load_truth_and_pack],
        ],
    ),
]

dataset = dict(type="ADE20KDataset", data_root="data/ade/ADEChallengeData2016")
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path="images/training", seg_map_path="annotations/training"
        ),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **dataset,
        data_prefix=dict(
            img_path="images/validation", seg_map_path="annotations/validation"
        ),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader

# mIoU, and with it aAcc and mAcc.
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
