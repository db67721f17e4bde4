# Swin-Tiny with 4 blocks in the third stage: the paper's table 9 (80.2 top-1).
_base_ = "./swin_tiny_in1k_224.py"
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=96, depths=(2, 2, 4, 2), num_heads=(3, 6, 12, 24)
        )
    )
)
