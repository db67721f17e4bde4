# Sparse R-CNN with Swin-Tiny, 3x schedule (arXiv version of the paper, table 5).
_base_ = [
    "../_base_/models/sparse_rcnn.py",
    "../_base_/backbones/swin_tiny.py",
    "../_base_/datasets/coco_detection_swin.py",
    "../_base_/schedules/adamw_3x.py",
    "../_base_/default_runtime.py",
]
model = dict(backbone=_base_.backbone, neck=dict(in_channels=_base_.channels))
# As sparse_rcnn_focal_tiny_3x.py.
optim_wrapper = dict(
    optimizer=dict(lr=2.5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=1.0)
)
