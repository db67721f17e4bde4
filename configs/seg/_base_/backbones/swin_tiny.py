# For comparison. ImageNet-1K weights in mmseg's format (its
# tools/model_converters/swin2mmseg.py turns the authors' file into it):
# --cfg-options model.backbone.init_cfg.checkpoint=PATH
_base_ = "../../../_base_/sizes/tiny.py"
backbone = dict(
    type="SwinTransformer",
    embed_dims=96,
    depths=(2, 2, 6, 2),
    num_heads=(3, 6, 12, 24),
    window_size=7,
    drop_path_rate=0.3,
)
