# For the ablations: in MMPretrain's Swin windows need not be shifted, and may differ
# between stages. A checkpoint of configs/cls/baselines needs, beside
# init_cfg.checkpoint, --cfg-options model.backbone.init_cfg.prefix=backbone.
_base_ = "../../../_base_/sizes/tiny.py"
backbone = dict(
    type="mmpretrain.SwinTransformer",
    arch=_base_.arch,
    drop_path_rate=0.1,
    pad_small_map=True,
)
