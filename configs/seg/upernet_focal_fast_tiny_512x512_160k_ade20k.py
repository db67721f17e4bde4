# UPerNet, Focal-fast-Tiny: no row of the paper.
# ImageNet-1K weights: --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = "./upernet_focal_tiny_512x512_160k_ade20k.py"
pretraining = "focal_fast_tiny_in1k_224"
model = dict(
    backbone=dict(
        key_selection="topk",
        use_conv_embed=True,
        focal_windows=None,
        expand_sizes=None,
    )
)
