# What follows the resizing in every multi-scale test.
tta_flip_and_pack = [
    [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
    [
        dict(
            type="PackDetInputs",
            meta_keys=(
                "img_id",
                "img_path",
                "ori_shape",
                "img_shape",
                "scale_factor",
                "flip",
                "flip_direction",
            ),
        )
    ],
]
