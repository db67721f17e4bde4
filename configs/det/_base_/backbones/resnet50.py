# For comparison. ImageNet-1K weights, without which frozen_stages must be -1:
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
