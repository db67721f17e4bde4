# The figures are those of PVT's own paper; the rows have its optimizer. Weights in the
# format of its authors:
# --cfg-options model.backbone.init_cfg.checkpoint=PATH
backbone = dict(type="PyramidVisionTransformer", num_layers=[3, 4, 6, 3])
channels = [64, 128, 320, 512]
pretraining = "https://github.com/whai362/PVT/releases/download/v2/pvt_small.pth"
