_base_ = ["mmdet::_base_/default_runtime.py", "../../_base_/runtime.py"]

custom_imports = dict(imports=[*_base_.custom_imports.imports, "focal_mm.det"])

# The best checkpoint and the last. Two of the latter, because the oldest is removed
# before the newest is written: a run killed in between must still have one.
default_hooks = dict(
    checkpoint=dict(save_best="coco/bbox_mAP", rule="greater", max_keep_ckpts=2)
)
