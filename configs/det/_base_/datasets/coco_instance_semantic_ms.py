# As Swin describes its HTC++ (appendix A2.2): InstaBoost, the shorter side 400-1400 and
# the longer at most 1600; in testing the largest. InstaBoost moves instances, not the
# stuff behind them, and needs the extra `instaboost`. The semantic branch needs COCO's
# stuffthingmaps/.
_base_ = "./coco_instance.py"

# Its authors' settings.
instaboost = dict(
    type="ManyContoursInstaBoost",
    action_candidate=("normal", "horizontal", "skip"),
    action_prob=(1, 0, 0),
    scale=(0.8, 1.2),
    dx=15,
    dy=15,
    theta=(-1, 1),
    color_prob=0.5,
    hflag=False,
    aug_ratio=0.5,
)
# It needs the polygons of the annotation file, not yet loaded into masks.
load = [
    _base_.load[0],
    instaboost,
    dict(_base_.load[1], with_seg=True),
]
resize = dict(type="RandomResize", scale=[(1600, 400), (1600, 1400)], keep_ratio=True)
train_pipeline = [*load, resize, *_base_.flip_and_pack]
train_dataloader = dict(
    dataset=dict(
        data_prefix=dict(seg="stuffthingmaps/train2017/"), pipeline=train_pipeline
    )
)

test_pipeline = [
    _base_.load[0],
    dict(type="Resize", scale=(1600, 1400), keep_ratio=True),
    *_base_.test_pipeline[2:],
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
