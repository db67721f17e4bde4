# What the detection backbones of every size share (paper, section 4.2): focal windows
# larger than at 224x224, expansion by 3 tokens in all four stages.
# A backbone's file defines two variables, which a config inserts where its detector
# wants them: `backbone` and `channels`, those of the four stages. A third,
# `pretraining`, names the config in configs/cls whose checkpoint it starts from:
# --cfg-options model.backbone.init_cfg.checkpoint=PATH
backbone = dict(
    type="FocalTransformer",
    window_size=7,
    focal_levels=2,
    focal_windows=(15, 13, 9, 7),
    expand_sizes=(3, 3, 3, 3),
)
