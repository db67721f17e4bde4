# Not mmseg's own: `mmseg::` finds its configs in the upstream family only.
_base_ = "../../_base_/runtime.py"

default_scope = "mmseg"
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    # The best checkpoint and the last two, because the oldest is removed before the
    # newest is written: a run killed in between must still have one.
    checkpoint=dict(
        type="CheckpointHook",
        by_epoch=False,
        interval=16000,
        save_best="mIoU",
        rule="greater",
        max_keep_ckpts=2,
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
visualizer = dict(
    type="SegLocalVisualizer",
    vis_backends=[dict(type="LocalVisBackend")],
    name="visualizer",
)
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
