# AdamW, as in all rows. The tables' figures are by AdamW in arXiv table 5 (of Swin's
# paper), by SGD with 1x (MMDetection's); PVT's paper, whose are those with 3x, does not
# say. The weights are needed, or frozen_stages must be -1:
# --cfg-options model.backbone.init_cfg.checkpoint=torchvision://resnet50
backbone = dict(
    type="ResNet",
    depth=50,
    frozen_stages=1,
    norm_cfg=dict(type="BN", requires_grad=True),
    norm_eval=True,
    style="pytorch",
)
channels = [256, 512, 1024, 2048]
pretraining = "torchvision://resnet50"
