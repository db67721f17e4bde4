# The paper names no other optimizer than that of its other detectors (lr=1e-4,
# weight_decay=0.05, no clipping); this is Sparse R-CNN's own (docs/sources.md).
_base_ = "./adamw_3x.py"
optim_wrapper = dict(
    optimizer=dict(lr=2.5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=1.0)
)
