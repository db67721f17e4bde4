# Variables of the training pipelines. Where recipes disagree, the paper's text is
# followed (section 4.2: 800 pixels for 1x, "the range of [480, 800]" for 3x), and the
# other has probability 0. To have both equally often:
# --cfg-options train_dataloader.dataset.pipeline.2.prob="[0.5,0.5]"
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

# 1x: one size; Swin's released 1x recipes are multi-scale.
fixed_size = dict(
    type="RandomChoice",
    transforms=[
        [dict(type="Resize", scale=(1333, 800), keep_ratio=True)],
        [multi_scale],
    ],
    prob=[1.0, 0.0],
)
# 3x: multi-scale; Swin's released 3x recipes crop every second image, as DETR does.
multi_scale_or_crop = dict(
    type="RandomChoice",
    transforms=[[multi_scale], resize_crop_resize],
    prob=[1.0, 0.0],
)
flip_and_pack = [dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")]
