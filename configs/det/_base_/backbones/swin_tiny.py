# Stochastic depth, here and of the other sizes, is that of Swin's published detectors.
# Files of its authors need, beside init_cfg.checkpoint,
# --cfg-options model.backbone.convert_weights=True
_base_ = "../../../_base_/sizes/tiny.py"
backbone = dict(
    type="SwinTransformer",
    embed_dims=96,
    depths=(2, 2, 6, 2),
    num_heads=(3, 6, 12, 24),
    window_size=7,
    drop_path_rate=0.2,
)
pretraining = "swin_tiny_in1k_224"
