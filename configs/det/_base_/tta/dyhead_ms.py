# Multi-scale test (--tta) of ATSS with DyHead. Neither the paper nor DyHead publishes
# scales: these, with the sizes of detections taken from each, are those of ATSS's
# repository, which merges by soft voting where this does by NMS.
_base_ = "./flip_and_pack.py"

tta_scales_and_sizes = [
    ((1333, 400), (96, 10000)),
    ((1333, 500), (96, 10000)),
    ((1333, 600), (64, 10000)),
    ((1333, 640), (64, 10000)),
    ((1333, 700), (64, 10000)),
    ((1333, 800), (0, 10000)),
    ((3000, 900), (0, 10000)),
    ((3000, 1000), (0, 10000)),
    ((3000, 1100), (0, 256)),
    ((3000, 1200), (0, 256)),
    ((3000, 1300), (0, 192)),
    ((3000, 1400), (0, 192)),
    ((3000, 1800), (0, 96)),
]
tta_model = dict(
    type="DetMaskTTAModel",
    tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.6), max_per_img=100),
    size_ranges=[sizes for _, sizes in tta_scales_and_sizes],
)
tta_scales = [
    dict(type="Resize", scale=scale, keep_ratio=True)
    for scale, _ in tta_scales_and_sizes
]
tta_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="TestTimeAug", transforms=[tta_scales, *_base_.tta_flip_and_pack]),
]
