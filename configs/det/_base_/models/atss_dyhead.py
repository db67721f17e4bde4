# Six dynamic heads between FPN and ATSS, the latter without convolutions of its own;
# offsets, anchor centres, predictors and padding as DyHead's authors have them.
# A config adds the backbone and the channels of its last three stages.
_base_ = "./atss.py"
fpn = _base_.model.neck
dyhead = dict(
    type="DyHead",
    in_channels=256,
    out_channels=256,
    num_blocks=6,
    zero_init_offset=False,
)
model = dict(
    data_preprocessor=dict(pad_size_divisor=128),
    neck=[fpn, dyhead],
    bbox_head=dict(
        stacked_convs=0,
        pred_kernel_size=1,
        anchor_generator=dict(center_offset=0.5),
    ),
)
