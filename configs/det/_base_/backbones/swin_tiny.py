# For comparison. ImageNet-1K weights in the format of their authors:
# --cfg-options model.backbone.init_cfg.checkpoint=PATH
backbone = dict(
    type="SwinTransformer",
    embed_dims=96,
    depths=(2, 2, 6, 2),
    num_heads=(3, 6, 12, 24),
    window_size=7,
    drop_path_rate=0.2,
    convert_weights=True,
)
channels = [96, 192, 384, 768]
