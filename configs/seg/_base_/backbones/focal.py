# The paper gives no focal sizes for segmentation: those of detection (section 4.2),
# whose images are as large (docs/sources.md). Nor does it give a stochastic depth: 0.3
# in every size is that of Swin's recipe.
_base_ = "../../../det/_base_/backbones/focal.py"
backbone = dict(drop_path_rate=0.3)
