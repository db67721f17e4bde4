"""Mistaken arguments of the backbone are named when it is built."""

import inspect
import pickle

import numpy as np
import pytest
import torch

from focal_mm import FocalTransformer

WRONG_TYPES = [
    dict(window_size=7.5),
    dict(window_size="7"),
    dict(window_size=[7, 7, 7, 7.5]),
    dict(out_indices=3),
    dict(out_indices="0123"),
    dict(with_cp="maybe"),
    dict(qkv_bias=1),
    dict(mlp_ratio="four"),
    dict(drop_path_rate="high"),
    dict(drop_rate=None),
    dict(qk_scale="abc"),
    dict(in_channels=3.0),
    dict(patch_size=[4, 4]),
    dict(focal_levels=True),
    dict(focal_windows="7531"),
    dict(layer_scale_init_value="small"),
    dict(pretrain_img_size=224.0),
    dict(frozen_stages=None),
    dict(topk="all", key_selection="topk"),
    dict(init_cfg="weights.pth"),
    dict(arch=5),
    dict(arch=dict(embed_dims=16.0, depths=(1,), num_heads=(1,))),
    dict(arch=dict(embed_dims=16, depths=1, num_heads=(1,))),
    dict(arch=dict(embed_dims=16, depths=(1,), num_heads=("one",))),
]
OUT_OF_RANGE = [
    dict(in_channels=0),
    dict(patch_size=0),
    dict(mlp_ratio=-4),
    dict(mlp_ratio=float("nan")),
    dict(pretrain_img_size=0, use_abs_pos_embed=True),
    dict(arch=dict(embed_dims=-16, depths=(1,), num_heads=(1,))),
]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(arguments, TypeError) for arguments in WRONG_TYPES]
    + [(arguments, ValueError) for arguments in OUT_OF_RANGE],
    ids=str,
)
def test_the_argument_is_named(arguments, error):
    with torch.device("meta"), pytest.raises(error) as caught:
        FocalTransformer(**arguments)
    line = str(caught.value)
    assert "\n" not in line
    name, value = next(iter(arguments.items()))
    wrong = [name] if not isinstance(value, dict) else list(value)
    assert any(part in line for part in wrong)


@pytest.mark.parametrize(
    "arguments",
    [
        dict(window_size=[7, 7, 7, 7], drop_path_rate=0),
        dict(mlp_ratio=np.float64(4), out_indices=[3], frozen_stages=1),
        dict(arch=dict(embed_dims=16, depths=[1] * 4, num_heads=[1] * 4)),
        dict(init_cfg=[dict(type="Normal")], pretrain_img_size=[224, 256]),
    ],
    ids=str,
)
def test_what_fits_passes_whatever_holds_it(arguments):
    with torch.device("meta"):
        FocalTransformer(**arguments)


def test_the_constructor_still_shows_its_arguments(small_backbone):
    parameters = inspect.signature(FocalTransformer).parameters
    assert parameters["window_size"].default == 7
    with pytest.raises(TypeError, match="window_sise"):
        FocalTransformer(window_sise=7)
    pickle.dumps(small_backbone())
