"""Swin files by the ways that users take: init_cfg, whole models, the converter."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor, nn

from focal_mm import FocalTransformer
from focal_mm.checkpoint import CheckpointError, convert_swin
from focal_mm.checkpoint.parts import split_backbone
from focal_mm.checkpoint.swin.names import read_swin
from focal_mm.checkpoint.swin.network import build_swin
from focal_mm.engine.fit_images import distances, focal_like, read_images, stage_maps
from tools.convert_checkpoint import main

CONFIGS = Path(__file__).parents[2] / "configs"
ARCH = dict(embed_dims=16, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8))
BIAS = r"attn\.relative_position_bias_table"
CHANNELS = [16, 32, 64, 128]


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A timm classifier's weights."""
    timm = pytest.importorskip("timm")
    sizes = dict(embed_dim=16, depths=ARCH["depths"], num_heads=ARCH["num_heads"])
    model = timm.models.SwinTransformer(**sizes, num_classes=5)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    return model.state_dict()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two smooth images, and of a file that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        grid = np.random.default_rng(number).integers(0, 255, (5, 7, 3), np.uint8)
        image = cv2.resize(grid, (320, 240), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    (folder / "notes.txt").write_text("no image")
    return folder


def test_init_cfg_takes_a_file_as_it_is_and_says_what_became_of_it(
    state: dict[str, Tensor], tmp_path: Path, log: list[str]
) -> None:
    path = tmp_path / "swin.pth"
    torch.save({"model": state}, path)
    model = FocalTransformer(
        arch=ARCH, init_cfg=dict(type="Pretrained", checkpoint=str(path))
    )
    wanted, _ = split_backbone(convert_swin(state))
    log.clear()
    model.init_weights()
    for name, parameter in model.named_parameters():
        # An ImageNet model has the norm of its last stage alone.
        if name.removesuffix(".weight").removesuffix(".bias") not in NORMS:
            torch.testing.assert_close(parameter.data, wanted[name], msg=name)
    (line,) = (line for line in log if line.startswith("Swin Transformer: "))
    assert "112 tensors mapped" in line
    assert "3 patch mergings folded into convolutions, norms fitted on noise" in line
    assert "initialised: tables of neighbours" in line
    assert any("dropped: head.fc.weight, head.fc.bias" in line for line in log)


NORMS = ("norm0", "norm1", "norm2")


def test_window_of_12_into_windows_of_7(log: list[str]) -> None:
    timm = pytest.importorskip("timm")
    sizes = dict(embed_dim=16, depths=ARCH["depths"], num_heads=ARCH["num_heads"])
    state = timm.models.SwinTransformer(384, window_size=12, **sizes).state_dict()
    large = FocalTransformer(arch=ARCH, window_size=12, expand_sizes=5)
    large.load_state_dict(state, strict=False)
    assert not any("resized" in line for line in log)
    small = FocalTransformer(arch=ARCH, expand_sizes=3, focal_windows=(15, 13, 9, 7))
    assert small.load_state_dict(state, strict=False).missing_keys == [
        f"{norm}.{part}" for norm in NORMS for part in ("weight", "bias")
    ]
    table = small.get_parameter("stages.0.blocks.0.attn.relative_position_bias_table")
    assert table.abs().max() > 0


def library_config(library: str, name: str) -> Config:
    """A config that a library brings with it."""
    folder = Path(importlib.import_module(library).__file__).parent
    return Config.fromfile(folder / ".mim/configs" / name)


def twin_of(name: str) -> Config:
    """A detector of this project with mmdet's Swin."""
    config = Config.fromfile(CONFIGS / "det" / name)
    out_indices = config.model.backbone.out_indices
    config.model.backbone = dict(type="SwinTransformer", out_indices=out_indices)
    return config


def build(config: Config, **arch: object) -> nn.Module:
    """A model with a small backbone."""
    model = config.model
    out_indices = model.backbone.get("out_indices", (0, 1, 2, 3))
    model.backbone.update(**arch, init_cfg=None)
    model.pop("pretrained", None)
    channels = [CHANNELS[stage] for stage in out_indices]
    if config.default_scope == "mmpretrain":
        model.head.in_channels = CHANNELS[-1]
    elif "neck" in model:
        model.neck.in_channels = channels
    else:
        model.decode_head.in_channels = channels
        model.auxiliary_head.in_channels = channels[2]
    init_default_scope(config.default_scope)
    return MODELS.build(model)


WHOLE = {
    "cls/focal_tiny_in1k_224.py": lambda: library_config(
        "mmpretrain", "swin_transformer/swin-tiny_16xb64_in1k.py"
    ),
    "det/mask_rcnn_focal_tiny_1x.py": lambda: library_config(
        "mmdet", "swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py"
    ),
    "det/retinanet_focal_tiny_1x.py": lambda: library_config(
        "mmdet", "swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py"
    ),
    "det/atss_focal_tiny_3x.py": lambda: twin_of("atss_focal_tiny_3x.py"),
    "det/cascade_mask_rcnn_focal_tiny_3x.py": lambda: twin_of(
        "cascade_mask_rcnn_focal_tiny_3x.py"
    ),
    "seg/upernet_focal_tiny_512x512_160k_ade20k.py": lambda: library_config(
        "mmseg",
        "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py",
    ),
}


@pytest.mark.parametrize(
    "row",
    [
        # The largest heads.
        pytest.param(row, marks=pytest.mark.slow if "cascade" in row else ())
        for row in WHOLE
    ],
)
def test_whole_models_become_the_focal_model_of_their_name(row: str) -> None:
    focal_config, swin_config = Config.fromfile(CONFIGS / row), WHOLE[row]()
    classifies = row.startswith("cls")
    swin = build(swin_config, **({"arch": ARCH} if classifies else ARCH))
    focal = build(focal_config, arch=ARCH)
    state = swin.state_dict()
    # As mmengine does for load_from.
    missing, left = focal.load_state_dict(state, strict=False)
    assert not missing
    # The last stage of an ImageNet model does not expand.
    last_stage = rf"backbone\.stages\.3\.blocks\.[01]\.{BIAS}_to_neighbors"
    assert all(classifies and re.fullmatch(last_stage, name) for name in left)
    _, others = split_backbone(state)
    assert others
    for name, value in focal.state_dict().items():
        if not name.startswith("backbone."):
            assert value.equal(others.pop(name)), name
    assert not others
    name = "stages.1.blocks.1.attn.qkv.weight"
    assert focal.backbone.get_parameter(name).equal(
        state["backbone.stages.1.blocks.1.attn.w_msa.qkv.weight"]
    )


def without(part: str) -> Callable[[dict[str, Tensor]], object]:
    def change(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if part in name]:
            del state[name]

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda state: state.update(
                {"layers.0.blocks.0.attn.cpb_mlp.0.weight": torch.zeros(1)}
            ),
            "'layers.0.blocks.0.attn.cpb_mlp.0.weight' is not a name in a Swin",
        ),
        (without("layers.2.blocks.1.norm2"), "stages.2.blocks.1.norm2.weight"),
        (without("patch_embed.proj"), "'patch_embed.proj.weight' is missing"),
        (
            lambda state: state.update(
                {"layers.1.blocks.0.norm1.weight": torch.zeros(3)}
            ),
            "size mismatch for stages.1.blocks.0.norm1.weight",
        ),
    ],
    ids=["version 2", "missing", "no stem", "size"],
)
def test_other_networks_give_one_line(
    state: dict[str, Tensor], change: Callable, reason: str
) -> None:
    change(state)
    with pytest.raises(CheckpointError) as error:
        convert_swin(state)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_the_converter_fits_to_images(
    state: dict[str, Tensor],
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = tmp_path / "swin.pth", tmp_path / "focal.pth"
    torch.save(state, source)
    assert main([str(source), str(target), "--fit-images", str(photos)]) == 0
    printed = capsys.readouterr().out
    assert "2 images" in printed
    assert "cosine" in printed
    fitted = torch.load(target, weights_only=True)["state_dict"]

    swin, images = build_swin(read_swin(state)[0]), read_images(photos, 224)
    with torch.no_grad():
        wanted = swin(images)
        errors = [
            [
                error
                for error, _ in distances(
                    stage_maps(focal_like(swin, weights), images), wanted
                )
            ]
            for weights in (convert_swin(state), fitted)
        ]
    # The first stage is before any downsampling.
    (same, *before), (as_before, *after) = errors
    assert same == as_before
    assert all(now < then for now, then in zip(after, before, strict=True))


@pytest.mark.parametrize("folder", ["absent", "empty"])
def test_a_folder_without_images_is_an_error(
    folder: str,
    state: dict[str, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, target = tmp_path / "swin.pth", tmp_path / "focal.pth"
    torch.save(state, source)
    (tmp_path / "empty").mkdir()
    images = str(tmp_path / folder)
    assert main([str(source), str(target), "--fit-images", images]) == 1
    assert f"there is no image in {images}" in capsys.readouterr().err
    assert not target.exists()
