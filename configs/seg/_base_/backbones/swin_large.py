# Windows of 12, as pre-trained on ImageNet-22K at 384x384 by its authors: only so are
# there the 234 M parameters of table 6. Their weights in MMSegmentation's format.
_base_ = "./swin_base.py"
backbone = dict(embed_dims=192, num_heads=(6, 12, 24, 48), window_size=12)
channels = [192 * 2**stage for stage in range(4)]
pretraining = (
    "https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/swin/"
    "swin_large_patch4_window12_384_22k_20220412-6580f57d.pth"
)
