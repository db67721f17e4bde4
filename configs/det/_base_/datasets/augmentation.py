# Variables of the training pipelines. The choice of sizes is between one size (1x in
# the paper's text), multi-scale (3x there) and, as in DETR, a crop between two
# resizings. Swin's pipeline, for 1x and 3x, has the last two equally often
# (docs/sources.md):
# --cfg-options train_dataloader.dataset.pipeline.2.prob="[0.0,0.5,0.5]"
multi_scale = dict(
    type="RandomChoiceResize",
    scales=[(short, 1333) for short in range(480, 801, 32)],
    keep_ratio=True,
)
resize_crop_resize = [
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
    multi_scale,
]
resize_choice = dict(
    type="RandomChoice",
    transforms=[
        [dict(type="Resize", scale=(1333, 800), keep_ratio=True)],
        [multi_scale],
        resize_crop_resize,
    ],
    prob=[1.0, 0.0, 0.0],
)
flip_and_pack = [dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")]
