import logging
import pickle

import pytest
import torch
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.runner import load_state_dict

from focal_mm.checkpoint import CheckpointError, read_checkpoint
from focal_mm.checkpoint import init as checkpoint_init
from focal_mm.checkpoint.interpolate import adapt_input_channels
from focal_mm.checkpoint.layouts import to_openmmlab
from focal_mm.checkpoint.read import state_dict_of

DETECTION = dict(focal_windows=(15, 13, 9, 7), expand_sizes=3)


@pytest.fixture
def log():
    """Lines logged by MMEngine's current logger."""
    lines = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)


@pytest.fixture
def classifier_file(small_backbone, tmp_path):
    """A classifier's checkpoint in OpenMMLab's layout, and its backbone."""
    backbone = small_backbone(out_indices=(3,))
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter)
    state = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    state["head.fc.weight"] = torch.randn(10, 128)
    path = tmp_path / "classifier.pth"
    torch.save({"state_dict": state, "meta": {"epoch": 3}}, path)
    return path, backbone


def pretrained(path, **more):
    return dict(type="Pretrained", checkpoint=str(path), **more)


def in_log(log, *words):
    """Whether one line holds all the words."""
    return any(all(word in line for word in words) for line in log)


def test_classifier_into_detection_backbone(classifier_file, small_backbone, log):
    path, source = classifier_file
    model = small_backbone(**DETECTION, init_cfg=pretrained(path))
    model.init_weights()

    torch.testing.assert_close(
        model.get_parameter("stages.2.blocks.0.attn.qkv.weight"),
        source.get_parameter("stages.2.blocks.0.attn.qkv.weight"),
    )
    name = "stages.0.blocks.0.attn.relative_position_bias_table_to_windows.0"
    grid = source.get_parameter(name).view(1, 1, 13, 13)
    want = torch.nn.functional.interpolate(grid, (21, 21), mode="bilinear")
    torch.testing.assert_close(model.get_parameter(name), want.view(1, 441))

    assert in_log(log, "resized", f"{name} (1, 169) -> (1, 441)")
    assert in_log(log, "initialised", "stages.3", "to_neighbors")
    assert in_log(log, "missing", "norm0.weight", "norm2.bias")
    assert in_log(log, "dropped", "head.fc.weight")


@pytest.mark.parametrize("pool", ["fc", "conv"])
def test_window_7_into_14(pool, small_backbone, log):
    source = small_backbone(focal_pool=pool)
    target = small_backbone(focal_pool=pool, window_size=14, expand_sizes=(7, 7, 7, 0))
    keys = target.load_state_dict(source.state_dict(), strict=True)
    assert not keys.missing_keys
    for table in ("_table ", "_to_neighbors ", "_to_windows.0 "):
        assert in_log(
            log, "resized", f"stages.0.blocks.0.attn.relative_position_bias{table}"
        ) or in_log(log, "resized", f"relative_position_bias_table{table}")
    assert in_log(log, "resized", "pool_layers.0.weight")
    x = torch.randn(1, 3, 64, 64)
    assert all(out.isfinite().all() for out in target(x))


def test_focal_fast_into_other_windows_keeps_its_biases(small_backbone, log):
    """They are functions of offsets; only the pooling depends on the window."""
    source = small_backbone(key_selection="topk")
    target = small_backbone(key_selection="topk", window_size=14, topk=64)
    keys = target.load_state_dict(source.state_dict(), strict=True)
    assert not keys.missing_keys
    assert len(log) == 1
    assert in_log(log, "resized (5)", "pool_layers.0.weight (1, 49) -> (1, 196)")
    biases = [name for name in source.state_dict() if "coord2rpb_all" in name]
    assert len(biases) == 5 * 2 * 4
    for name in biases:
        assert target.get_parameter(name).equal(source.get_parameter(name))


@pytest.mark.parametrize("selection", ["window", "topk"])
def test_file_of_the_other_key_selection(selection, small_backbone, tmp_path):
    path = tmp_path / "other.pth"
    torch.save(small_backbone(key_selection=selection).state_dict(), path)
    other = {"window": "topk", "topk": "window"}[selection]
    model = small_backbone(key_selection=other, init_cfg=pretrained(path))
    refuses_to_load(model, path)
    with pytest.raises(CheckpointError, match=f"key_selection='{selection}'"):
        model.init_weights()


def test_focal_fast_with_other_heads_is_another_model(small_backbone, tmp_path):
    path = tmp_path / "other.pth"
    source = small_backbone(key_selection="topk", **OTHER_MODELS["heads"])
    torch.save(source.state_dict(), path)
    refuses_to_load(
        small_backbone(key_selection="topk", init_cfg=pretrained(path)), path
    )


@pytest.mark.parametrize("selection", ["window", "topk"])
def test_same_sizes_load_silently_and_exactly(selection, small_backbone, log):
    source = small_backbone(key_selection=selection)
    target = small_backbone(key_selection=selection)
    target.load_state_dict(source.state_dict())
    assert log == []
    for name, value in source.state_dict().items():
        assert target.state_dict()[name].equal(value)


@pytest.mark.parametrize("wrapped", [True, False])
def test_released_file_as_it_is(wrapped, classifier_file, small_backbone, tmp_path):
    _, source = classifier_file
    released = {
        name.replace("stages.", "layers.", 1).replace("norm3.", "norm.", 1): value
        for name, value in source.state_dict().items()
    }
    released["head.weight"] = torch.randn(10, 128)
    released["layers.0.blocks.0.attn.valid_ind_rolled"] = torch.arange(3)
    path = tmp_path / "released.pth"
    torch.save({"model": released} if wrapped else released, path)
    model = small_backbone(out_indices=(3,), init_cfg=pretrained(path))
    model.init_weights()
    for name, value in source.state_dict().items():
        assert model.state_dict()[name].equal(value), name


def test_prefix_and_safetensors(classifier_file, small_backbone, tmp_path, log):
    save_file = pytest.importorskip(
        "safetensors.torch", reason="safetensors is not installed"
    ).save_file
    _, source = classifier_file
    path = tmp_path / "detector.safetensors"
    save_file({f"student.{k}": v for k, v in source.state_dict().items()}, path)
    model = small_backbone(init_cfg=pretrained(path, prefix="student"))
    model.init_weights()
    name = "patch_embed.proj.weight"
    assert model.get_parameter(name).equal(source.get_parameter(name))
    with pytest.raises(CheckpointError, match=r"prefix 'teacher\.'"):
        small_backbone(init_cfg=pretrained(path, prefix="teacher.")).init_weights()


def test_whole_detectors_are_resized_by_mmengines_loader(small_backbone):
    """load_from, resume and the Inferencers go through MMEngine's load_state_dict."""
    source, target = small_backbone(), small_backbone(focal_windows=(15, 13, 9, 7))
    detector = torch.nn.ModuleDict({"backbone": target, "neck": torch.nn.Linear(2, 2)})
    state = {f"backbone.{k}": v for k, v in source.state_dict().items()}
    load_state_dict(detector, state, strict=False)
    name = "stages.1.blocks.0.mlp.fc1.weight"
    assert target.get_parameter(name).equal(source.get_parameter(name))


def test_backbones_of_whole_detectors_are_converted(small_backbone, log):
    source, target = small_backbone(), small_backbone()
    state = {
        f"backbone.{name}".replace("stages.", "layers.", 1): value
        for name, value in source.state_dict().items()
        if not name.startswith("norm")
    }
    state["neck.weight"] = torch.ones(2)
    converted = to_openmmlab(state)
    assert in_log(log, "released Focal Transformer: ", " became ")
    assert converted["neck.weight"].equal(torch.ones(2))
    detector = torch.nn.ModuleDict({"backbone": target})
    for weights in (state, converted):
        torch.nn.init.zeros_(target.stages[3].blocks[0].mlp.fc1.weight)
        load_state_dict(detector, weights, strict=False)
        for name, value in source.stages.state_dict().items():
            assert target.stages.state_dict()[name].equal(value), name
    assert to_openmmlab({"conv1.weight": torch.ones(1)}) is None


def test_load_state_dict_means_what_pytorch_says(small_backbone):
    """The rule for files is not one for a module's own method."""
    source, target = small_backbone(), small_backbone()
    state = source.state_dict()
    absent = "stages.1.blocks.0.attn.qkv.weight"
    del state[absent]
    state["stages.0.blocks.7.norm1.weight"] = torch.ones(16)
    keys = target.load_state_dict(state, strict=False)
    assert keys.missing_keys == [absent]
    assert keys.unexpected_keys == ["stages.0.blocks.7.norm1.weight"]
    assert target.norm0.weight.equal(source.norm0.weight)
    with pytest.raises(RuntimeError, match="Missing key"):
        target.load_state_dict(state)
    state["norm1.weight"] = torch.ones(5)
    with pytest.raises(RuntimeError, match=r"size mismatch for norm1\.weight"):
        target.load_state_dict(state, strict=False)


@pytest.mark.parametrize("selection", ["window", "topk"])
def test_weights_are_assigned_to_a_model_without_data(selection, small_backbone):
    source = small_backbone(key_selection=selection).eval()
    with torch.device("meta"):
        model = small_backbone(key_selection=selection, drop_path_rate=0.1).eval()
    model.load_state_dict(source.state_dict(), assign=True)
    x = torch.randn(1, 3, 64, 96)
    for got, want in zip(model(x), source(x), strict=True):
        assert got.equal(want)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_rgb_weights_for_other_channels(
    channels, overlap, small_backbone, tmp_path, log
):
    source = small_backbone(use_conv_embed=overlap)
    path = tmp_path / "rgb.pth"
    torch.save(source.state_dict(), path)
    model = small_backbone(
        use_conv_embed=overlap, in_channels=channels, init_cfg=pretrained(path)
    )
    model.init_weights()
    weight = model.patch_embed.proj.weight
    assert in_log(log, "input channels", f"proj.weight (16, 3, {weight.shape[-1]}")
    rgb = source.patch_embed.proj.weight
    in_turn = rgb[:, [channel % 3 for channel in range(channels)]] * 3 / channels
    want = rgb.sum(1, keepdim=True) if channels == 1 else in_turn
    torch.testing.assert_close(weight, want)


def test_other_channels_are_adapted_as_by_timm():
    timm = pytest.importorskip(
        "timm.models._manipulate", reason="timm is not installed"
    )
    rgb = torch.randn(4, 3, 2, 2)
    for channels in (1, 2, 3, 4, 7):
        torch.testing.assert_close(
            adapt_input_channels(rgb, channels), timm.adapt_input_conv(channels, rgb)
        )


def test_weights_for_other_channels_than_rgb_do_not_fit(small_backbone, tmp_path):
    path = tmp_path / "four.pth"
    torch.save(small_backbone(in_channels=4).state_dict(), path)
    refuses_to_load(small_backbone(init_cfg=pretrained(path)), path)


def test_a_file_for_other_parts_alone_is_not_ours_to_refuse(small_backbone):
    detector = torch.nn.ModuleDict(
        {"backbone": small_backbone(), "neck": torch.nn.Linear(2, 2)}
    )
    state = {"neck.weight": torch.ones(2, 2), "neck.bias": torch.ones(2)}
    load_state_dict(detector, state, strict=False)
    assert detector["neck"].weight.equal(torch.ones(2, 2))


OTHER_MODELS = {
    "wider": dict(
        arch=dict(embed_dims=32, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8))
    ),
    "deeper": dict(
        arch=dict(embed_dims=16, depths=(2, 1, 2, 1), num_heads=(1, 2, 4, 8))
    ),
    "shallower": dict(
        arch=dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    ),
    "heads": dict(
        arch=dict(embed_dims=16, depths=(2, 1, 1, 1), num_heads=(2, 4, 8, 16))
    ),
    "resnet": None,
}


@pytest.mark.parametrize("other", OTHER_MODELS)
def test_file_of_another_model(other, small_backbone, tmp_path):
    path = tmp_path / "other.pth"
    if OTHER_MODELS[other] is None:
        state = {"conv1.weight": torch.randn(64, 3, 7, 7), "fc.bias": torch.randn(10)}
    else:
        state = small_backbone(**OTHER_MODELS[other]).state_dict()
    torch.save(state, path)
    refuses_to_load(small_backbone(init_cfg=pretrained(path)), path)


def refuses_to_load(model, path):
    """One line that names the file, and no parameter changed."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=path.name) as error:
        model.init_weights()
    assert "\n" not in str(error.value)
    for name, value in model.state_dict().items():
        assert value.equal(before[name]), name


class Payload:
    """Pickles to a call of ``open`` that would create a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def broken_files(folder, source):
    whole = folder / "whole.pth"
    torch.save(source.state_dict(), whole)
    truncated = folder / "truncated.pth"
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    code = folder / "code.pth"
    torch.save({"state_dict": {"weight": Payload(folder / "executed")}}, code)
    old_code = folder / "old_code.pkl"
    old_code.write_bytes(pickle.dumps({"weight": Payload(folder / "executed")}))
    text = folder / "text.pth"
    text.write_text("version https://git-lfs.github.com/spec/v1\n")
    empty = folder / "empty.pth"
    empty.touch()
    listed = folder / "list.pth"
    torch.save([torch.ones(1)], listed)
    no_weights = folder / "no_weights.pth"
    torch.save({"meta": {"epoch": 1}}, no_weights)
    tensors = folder / "truncated.safetensors"
    tensors.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{")
    return [truncated, code, old_code, text, empty, listed, no_weights, tensors]


def test_broken_and_hostile_files(small_backbone, tmp_path):
    files = broken_files(tmp_path, small_backbone())
    for path in [*files, tmp_path / "absent.pth"]:
        refuses_to_load(small_backbone(init_cfg=pretrained(path)), path)
    assert not (tmp_path / "executed").exists()


def test_training_checkpoints_of_mmengine_are_readable(tmp_path):
    path = tmp_path / "epoch_1.pth"
    buffer = HistoryBuffer([1.0, 2.0], [1, 1])
    hub = dict(log_scalars={"loss": buffer}, runtime_info={"epoch": 1})
    torch.save(dict(state_dict={"w": torch.ones(1)}, message_hub=hub, meta={}), path)
    checkpoint = read_checkpoint(path)
    assert checkpoint["message_hub"]["log_scalars"]["loss"].mean() == 1.5
    assert state_dict_of(checkpoint, "x") == {"w": torch.ones(1)}


def test_other_initialisers_of_init_cfg_still_run(small_backbone):
    model = small_backbone(
        init_cfg=[dict(type="Constant", layer="LayerNorm", val=3.0, bias=1.0)]
    )
    model.init_weights()
    assert (model.norm0.weight == 3).all()
    others, found = checkpoint_init.pretrained_of(
        [dict(type="Constant", layer="Linear", val=0.0), pretrained("x.pth")]
    )
    assert found.checkpoint == "x.pth"
    assert len(others) == 1


def test_random_start_is_said(small_backbone, log):
    small_backbone().init_weights()
    assert in_log(log, "random weights")


def test_address_that_does_not_answer_is_one_line(monkeypatch):
    def refuse(url, path):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(CheckpointError, match=r"https://example\.org/x\.pth.*no route"):
        read_checkpoint("https://example.org/x.pth")
