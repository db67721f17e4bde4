# Windows that are not shifted: table 8 of the paper. MMDetection's Swin always shifts
# them, MMPretrain's need not, which needs, beside init_cfg.checkpoint,
# --cfg-options model.backbone.init_cfg.prefix=backbone.
_base_ = "./mask_rcnn_swin_tiny_1x.py"
pretraining = "swin_tiny_no_shift_in1k_224"
custom_imports = dict(imports=[*_base_.custom_imports.imports, "mmpretrain.models"])
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmpretrain.SwinTransformer",
        arch=_base_.arch,
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        pad_small_map=True,
        stage_cfgs=dict(block_cfgs=dict(shift=False)),
    )
)
