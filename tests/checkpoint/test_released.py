import pytest
import torch
from mmengine.registry import DefaultScope

from focal_mm import FocalTransformer
from focal_mm.checkpoint import CheckpointError, convert_released, from_released_args


def released_names(backbone):
    """A released file's names for a backbone of ours, derived buffers included."""
    state = {}
    for name, value in backbone.state_dict().items():
        name = name.replace("stages.", "layers.", 1)
        state[name.replace("norm3.", "norm.", 1) if name[:4] == "norm" else name] = (
            value
        )
    state["head.weight"] = torch.randn(10, backbone.num_features[-1])
    state["head.bias"] = torch.randn(10)
    for buffer in (
        "relative_position_index",
        "relative_position_index_windows.0",
        "valid_ind_rolled",
        "valid_ind_unfold_1",
    ):
        state[f"layers.0.blocks.0.attn.{buffer}"] = torch.arange(4)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(4)
    return state


def test_layout_is_an_mmpretrain_classifiers(small_backbone):
    classifiers = pytest.importorskip(
        "mmpretrain.models", reason="mmpretrain is not installed"
    )
    backbone = small_backbone(out_indices=(3,), layer_scale_init_value=0.1)
    state = released_names(backbone)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        classifier = classifiers.ImageClassifier(
            backbone=backbone,
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="LinearClsHead", num_classes=10, in_channels=128),
        )
    for given in (state, {"model": state}):
        converted = convert_released(given)
        keys = classifier.load_state_dict(converted, strict=True)
        assert not keys.missing_keys
        assert not keys.unexpected_keys
    assert not any("index" in name or "mask" in name for name in converted)
    assert converted["backbone.norm3.weight"] is state["norm.weight"]


def test_a_part_of_a_model_converts_too():
    part = {
        "layers.1.downsample.pre_norm.weight": torch.ones(1),
        "layers.3.blocks.1.attn.relative_position_bias_table_to_windows.1": torch.ones(
            1
        ),
    }
    assert set(convert_released(part)) == {
        "backbone.stages.1.downsample.pre_norm.weight",
        "backbone.stages.3.blocks.1.attn.relative_position_bias_table_to_windows.1",
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("layers.0.blocks.0.attn.qkv.scale", "not a name"),
        ("conv1.weight", "not a name"),
        ("layers.0.blocks.0.attn.coord2rpb_all.0.1.weight", "not a name"),
    ],
)
def test_foreign_names_are_refused(name, message):
    with pytest.raises(CheckpointError, match=message):
        convert_released({name: torch.ones(1)})


def test_small_last_stages_take_the_map_as_window_and_do_not_expand():
    config = from_released_args(
        dict(focal_levels=[2, 2, 2, 2], window_size=7), img_size=(192, 320)
    )
    assert config["window_size"] == (7, 7, 7, 6)
    assert config["expand_sizes"] == (3, 3, 3, 0)
    config = from_released_args({}, img_size=64)
    assert config["window_size"] == (7, 7, 4, 2)
    assert config["expand_sizes"] == (3, 3, 0, 0)


def test_defaults_are_focal_tiny_with_one_level():
    config = from_released_args({})
    assert config.pop("type") == "FocalTransformer"
    model = FocalTransformer(**config)
    assert model.arch == FocalTransformer("tiny").arch
    assert model.stages[0].blocks[0].geometry.coarse_levels == 0


def test_options_are_carried_over():
    config = from_released_args(
        dict(
            embed_dim=32,
            depths=[1, 1],
            num_heads=[1, 2],
            focal_levels=[3, 2],
            focal_stages=[1],
            focal_windows=[7, 5],
            expand_sizes=[3, 3],
            ape=True,
            use_layerscale=True,
            layerscale_value=0.5,
            use_pre_norm=True,
            patch_norm=False,
            use_checkpoint=True,
        )
    )
    assert config["focal_levels"] == (1, 2)
    assert config["layer_scale_init_value"] == 0.5
    assert config["use_abs_pos_embed"]
    assert config["pretrain_img_size"] == (224, 224)
    assert not config["use_pre_norm"]
    assert config["with_cp"]
    assert config["out_indices"] == (1,)


def test_unknown_arguments_and_versions_are_named():
    with pytest.raises(ValueError, match="focal_window'"):
        from_released_args(dict(focal_window=7))
    with pytest.raises(ValueError, match=r"'v2'.*got 'v3'"):
        from_released_args({}, version="v3")
    with pytest.raises(ValueError, match=r"\(v1\).*focal_topK"):
        from_released_args(dict(focal_topK=64), version="v1")


def test_focal_fast_has_the_released_names(small_backbone):
    backbone = small_backbone(key_selection="topk", out_indices=(3,))
    state = released_names(backbone)
    for buffer in ("topk_cloest_indice_0", "topk_cloest_coords_1", "window_coords"):
        state[f"layers.0.blocks.0.attn.{buffer}"] = torch.zeros(4)
    converted = convert_released(state)
    own = {k.removeprefix("backbone."): v for k, v in converted.items()}
    assert set(own) == {*backbone.state_dict(), "head.fc.weight", "head.fc.bias"}
    assert "stages.0.blocks.1.attn.coord2rpb_all.1.2.bias" in own


def test_focal_fast_leaves_out_what_it_does_not_read():
    released = dict(
        focal_levels=[2, 2, 2, 2],
        focal_topK=64,
        expand_sizes=[3, 3, 3, 3],
        focal_windows=[7, 5, 3, 1],
    )
    config = from_released_args(released, version="v2")
    assert config.pop("type") == "FocalTransformer"
    geometry = FocalTransformer(**config).stages[3].blocks[0].geometry
    assert (geometry.topk, geometry.coarse_levels) == (64, 1)
    assert from_released_args({}, version="v2")["topk"] == 128
    config = from_released_args(dict(use_shift=True), version="v2")
    del config["type"]
    with pytest.raises(ValueError, match="use_shift"):
        FocalTransformer(**config)
