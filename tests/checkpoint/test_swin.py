"""Against Swins of the libraries themselves, each in its own layout."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from focal_mm import FocalTransformer
from focal_mm.checkpoint import convert_swin
from focal_mm.checkpoint.parts import split_backbone
from focal_mm.checkpoint.swin.folding import REGION_BIAS, fold_merging, new_parameters
from focal_mm.checkpoint.swin.names import is_swin, read_swin
from focal_mm.checkpoint.swin.network import PatchMerging, Swin
from focal_mm.ops.window.geometry import merge_halo_bias, relative_index

BIAS = "attn.relative_position_bias_table"
DIMS, DEPTHS, HEADS = 16, (2, 2, 2, 2), (1, 2, 4, 8)


class Library(NamedTuple):
    """A library's Swin.

    Attributes:
        build: Makes it for an image size, a window size, and with or without a bias of
            queries, keys and values.
        last_blocks: The last block of each stage.
        stages: By image size (height, width), how many stages pad and shift as the
            authors' do. mmdet shifts maps of one window, mmpretrain does not take
            smaller ones, timm shifts before it pads.
    """

    build: Callable[[tuple[int, int], int, bool], nn.Module]
    last_blocks: Callable[[nn.Module], list[nn.Module]]
    stages: dict[tuple[int, int], int]


def of_mmdet(size: tuple[int, int], window: int, qkv_bias: bool) -> nn.Module:
    from mmdet.models.backbones import SwinTransformer

    return SwinTransformer(
        embed_dims=DIMS,
        depths=DEPTHS,
        num_heads=HEADS,
        window_size=window,
        qkv_bias=qkv_bias,
    )


def of_mmpretrain(size: tuple[int, int], window: int, qkv_bias: bool) -> nn.Module:
    from mmpretrain.models.backbones import SwinTransformer

    return SwinTransformer(
        arch=dict(embed_dims=DIMS, depths=DEPTHS, num_heads=HEADS),
        img_size=size,
        window_size=window,
        stage_cfgs=dict(block_cfgs=dict(attn_cfgs=dict(qkv_bias=qkv_bias))),
    )


def of_timm(size: tuple[int, int], window: int, qkv_bias: bool) -> nn.Module:
    timm = pytest.importorskip("timm")
    return timm.models.SwinTransformer(
        img_size=size,
        window_size=window,
        embed_dim=DIMS,
        depths=DEPTHS,
        num_heads=HEADS,
        qkv_bias=qkv_bias,
        num_classes=5,
    )


def of_torchvision(size: tuple[int, int], window: int, qkv_bias: bool) -> nn.Module:
    torchvision = pytest.importorskip("torchvision")
    return torchvision.models.SwinTransformer(
        [4, 4], DIMS, list(DEPTHS), list(HEADS), [window, window], num_classes=5
    )


LIBRARIES = {
    "mmdet": Library(
        of_mmdet,
        lambda model: [stage.blocks[-1] for stage in model.stages],
        {(224, 224): 3, (150, 206): 3},
    ),
    "mmpretrain": Library(
        of_mmpretrain,
        lambda model: [stage.blocks[-1] for stage in model.stages],
        {(224, 224): 4, (270, 310): 4},
    ),
    "timm": Library(
        of_timm,
        lambda model: [stage.blocks[-1] for stage in model.layers],
        {(224, 224): 4, (224, 336): 3},
    ),
    "torchvision": Library(
        of_torchvision,
        lambda model: [model.features[index][-1] for index in (1, 3, 5, 7)],
        {(224, 224): 4, (152, 208): 4},
    ),
}


def make_swin(
    library: str,
    size: tuple[int, int] = (224, 224),
    window: int = 7,
    qkv_bias: bool = True,
) -> nn.Module:
    """A library's Swin, nothing of which is zero."""
    model = LIBRARIES[library].build(size, window, qkv_bias)
    model.eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@torch.no_grad()
def maps_of(library: str, model: nn.Module, images: Tensor) -> list[Tensor]:
    """What leaves the blocks of each stage, (N, H, W, C)."""
    maps = []
    for stage, block in enumerate(LIBRARIES[library].last_blocks(model)):
        sides = [math.ceil(side / 4 / 2**stage) for side in images.shape[2:]]
        block.register_forward_hook(
            lambda *call, sides=sides: (
                maps.append(call[-1].unflatten(1, sides))
                if call[-1].dim() == 3
                else maps.append(call[-1])
            )
        )
    model(images)
    return maps


def build_focal(**options: object) -> FocalTransformer:
    arch = dict(embed_dims=DIMS, depths=DEPTHS, num_heads=HEADS)
    return FocalTransformer(arch=arch, drop_path_rate=0.0, **options).eval()


CLASSIFIER = {"head.weight", "head.fc.weight"}
SIZES = [(name, size) for name, one in LIBRARIES.items() for size in one.stages]
NO_BIAS = [(name, (224, 224), False) for name in ("mmdet", "mmpretrain", "timm")]


@pytest.mark.parametrize(
    ("library", "size", "qkv_bias"), [*((*pair, True) for pair in SIZES), *NO_BIAS]
)
def test_blocks_and_mergings_compute_what_swins_do(
    library: str, size: tuple[int, int], qkv_bias: bool, relative_error
) -> None:
    swin = make_swin(library, size, qkv_bias=qkv_bias)
    state = swin.state_dict()
    assert is_swin(state)
    focal = build_focal(
        focal_levels=1, expand_sizes=0, use_shift=True, focal_pool="none"
    )
    converted = convert_swin(state)
    focal.load_state_dict(split_backbone(converted)[0], strict=False)
    for name in CLASSIFIER & state.keys():
        assert converted["head.fc.weight"].equal(state[name])
    ours = Swin(read_swin(state)[0])

    images = torch.randn(2, 3, *size)
    wanted = maps_of(library, swin, images)
    with torch.no_grad():
        x = focal.patch_embed(images)
        for stage in range(LIBRARIES[library].stages[size]):
            for block in focal.stages[stage].blocks:
                x = block(x)
            assert relative_error(x, wanted[stage]) < 1e-5
            if stage < 3:
                x = ours.stages[stage]["downsample"](x)


def as_authors(timm_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's names as the authors' code has them, with its buffers."""
    state = {}
    for name, value in timm_state.items():
        if ".downsample." in name:
            kind, stage, rest = name.split(".", 2)
            name = f"{kind}.{int(stage) - 1}.{rest}"
        state[name.replace("head.fc.", "head.")] = value
    index = torch.zeros(49, 49, dtype=torch.int64)
    state["layers.0.blocks.0.attn.relative_position_index"] = index
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    return state


def as_openmmlab(timm_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm's weights as an mmpretrain classifier has them."""
    names = {
        r"^head\.": "head.fc.",
        r"^norm\.": "backbone.norm3.",
        r"^patch_embed\.proj\.": "backbone.patch_embed.projection.",
        r"^patch_embed\.norm\.": "backbone.patch_embed.norm.",
        r"\.attn\.": ".attn.w_msa.",
        r"\.mlp\.fc1\.": ".ffn.layers.0.0.",
        r"\.mlp\.fc2\.": ".ffn.layers.1.",
        r"^layers\.": "backbone.stages.",
    }
    state = {}
    for name, value in as_authors(timm_state).items():
        for theirs, ours in names.items():
            name = re.sub(theirs, ours, name)
        if ".downsample." in name:
            # From four tokens of C channels to C channels of four tokens, row by row.
            tokens = value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :]
            value = tokens.transpose(-1, -2).flatten(-2)
        state[name] = value
    return state


def as_features(timm_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names of timm's ``features_only``, which has no last norm and no head."""
    return {
        name.replace("layers.", "layers_"): value
        for name, value in timm_state.items()
        if not name.startswith(("norm.", "head."))
    }


@pytest.mark.parametrize("window", [7, 12])
def test_all_layouts_are_one_start(window: int) -> None:
    state = make_swin("timm", (32 * window,) * 2, window).state_dict()
    wanted = convert_swin(state)
    assert wanted["head.fc.weight"].equal(state["head.fc.weight"])
    for layout in (as_authors, as_openmmlab, as_features):
        changed = layout(state)
        assert is_swin({k.removeprefix("backbone."): v for k, v in changed.items()})
        for file in (changed, {"model": changed}, {"state_dict": changed}):
            got = convert_swin(file)
            assert got.keys() == wanted.keys() - (
                {"head.fc.weight", "head.fc.bias"}
                | {"backbone.norm3.weight", "backbone.norm3.bias"}
                if layout is as_features
                else set()
            )
            for name, value in got.items():
                torch.testing.assert_close(value, wanted[name], msg=name)


def test_detectors_of_the_authors_keep_necks_and_heads() -> None:
    state = as_authors(make_swin("timm").state_dict())
    for name in ("head.weight", "head.bias", "norm.weight", "norm.bias"):
        del state[name]
    wanted = convert_swin(state)
    for stage in range(4):
        wanted[f"backbone.norm{stage}.weight"] = torch.randn(DIMS * 2**stage)
        state[f"norm{stage}.weight"] = wanted[f"backbone.norm{stage}.weight"]
    neck = {"neck.fpn_convs.0.conv.weight": torch.randn(3)}
    got = convert_swin({f"backbone.{k}": v for k, v in state.items()} | neck)
    assert got.keys() == (wanted | neck).keys()
    for name, value in (wanted | neck).items():
        assert got[name].equal(value), name


def test_merging_is_the_convolution_but_for_the_token_s_deviation() -> None:
    merging = PatchMerging(8)
    for parameter in merging.parameters():
        torch.nn.init.normal_(parameter)
    kernel, bias = fold_merging(
        merging.norm.weight, merging.norm.bias, merging.reduction.weight
    )
    # Deviations far apart, means far from zero.
    x = 3 + torch.randn(2, 6, 10, 8) * torch.rand(2, 6, 10, 1).exp()
    got = F.conv2d(x.permute(0, 3, 1, 2), kernel, stride=2).permute(0, 2, 3, 1)
    eps = merging.norm.eps
    patches = x.view(2, 3, 2, 5, 2, 8)
    deviation = (patches.var((2, 4, 5), correction=0) + eps).sqrt()[..., None]
    wanted = deviation * (merging(x) - bias)
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(("window", "expand"), [(7, 3), (12, 5)])
def test_neighbours_go_on_as_the_window_s_table(window: int, expand: int) -> None:
    table = torch.randn((2 * window - 1) ** 2, 2)
    neighbors = new_parameters(table, 0)[f"{BIAS}_to_neighbors"]
    index = relative_index(window, window, torch.device("cpu"))
    inside = table[index.flatten()].view(*index.shape, 2).permute(2, 0, 1)
    merged = merge_halo_bias(inside, neighbors[0], window, expand)

    side = window + 2 * expand
    field, last = table.view(2 * window - 1, -1, 2), window - 1
    for query in (0, window + 2, window**2 - 1):
        for key in range(side**2):
            offsets = (
                query // window - (key // side - expand),
                query % window - (key % side - expand),
            )
            row, column = (min(max(one, -last), last) + last for one in offsets)
            torch.testing.assert_close(merged[:, query, key], field[row, column])


def test_pooled_tokens_are_means_that_hardly_count() -> None:
    new = new_parameters(torch.randn(169, 3), 1)
    assert new["pool_layers.0.weight"].shape == (1, 49)
    torch.testing.assert_close(new["pool_layers.0.weight"].sum(), torch.tensor(1.0))
    assert not new["pool_layers.0.bias"].any()
    # Focal regions of 5 tokens in the second stage of the paper's ImageNet models.
    assert new[f"{BIAS}_to_windows.0"].shape == (3, 11**2)
    assert (new[f"{BIAS}_to_windows.0"] == REGION_BIAS).all()
