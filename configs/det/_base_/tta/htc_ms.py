# Multi-scale test (--tta) of HTC++. Neither the paper nor Swin, whose HTC++ it follows,
# publishes scales: these are those of training, 400-1400 x 1600, and their flips,
# merged by soft-NMS.
_base_ = "./flip_and_pack.py"

tta_model = dict(
    type="DetMaskTTAModel",
    tta_cfg=dict(nms=dict(type="soft_nms", iou_threshold=0.5), max_per_img=100),
)
tta_scales = [
    dict(type="Resize", scale=(1600, short), keep_ratio=True)
    for short in range(400, 1401, 200)
]
tta_pipeline = [
    dict(type="LoadImageFromFile", backend_args=None),
    dict(type="TestTimeAug", transforms=[tta_scales, *_base_.tta_flip_and_pack]),
]
