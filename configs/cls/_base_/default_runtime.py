_base_ = ["mmpretrain::_base_/default_runtime.py", "../../_base_/runtime.py"]

# The best checkpoint and the last two, because the oldest is removed before the newest
# is written: a run killed in between must still have one.
default_hooks = dict(
    checkpoint=dict(save_best="accuracy/top1", rule="greater", max_keep_ckpts=2)
)
