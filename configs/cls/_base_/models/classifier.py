# Mean over the last stage's tokens, then a linear layer (paper, section 3.1). A config
# adds the backbone and its last channels: see backbones/.
model = dict(
    type="ImageClassifier",
    backbone=dict(out_indices=(3,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
        # As all linear layers of the backbone.
        init_cfg=dict(type="TruncNormal", layer="Linear", std=0.02, bias=0.0),
        # Labels are mixed: there is no accuracy of a training step.
        cal_acc=False,
    ),
    # Of each batch either, in equal shares.
    train_cfg=dict(
        augments=[dict(type="Mixup", alpha=0.8), dict(type="CutMix", alpha=1.0)]
    ),
)
