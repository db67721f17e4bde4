# Depths 2-2-2-2: table 9 of the paper.
_base_ = "../mask_rcnn_focal_tiny_1x.py"
pretraining = "focal_tiny_depth_2222_in1k_224"
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=96, depths=(2, 2, 2, 2), num_heads=(3, 6, 12, 24)
        )
    )
)
