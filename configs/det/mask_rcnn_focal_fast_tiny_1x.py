# Mask R-CNN with Focal-fast-Tiny, 1x schedule: no row of the paper.
# ImageNet-1K weights: --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = "./mask_rcnn_focal_tiny_1x.py"
pretraining = "focal_fast_tiny_in1k_224"
model = dict(
    backbone=dict(
        key_selection="topk",
        use_conv_embed=True,
        focal_windows=None,
        expand_sizes=None,
    )
)
