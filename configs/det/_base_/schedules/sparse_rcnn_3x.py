# Sparse R-CNN's own optimizer, not that of the other detectors (docs/sources.md).
_base_ = "./adamw_3x.py"
optim_wrapper = dict(
    optimizer=dict(lr=2.5e-5, weight_decay=1e-4), clip_grad=dict(max_norm=1.0)
)
