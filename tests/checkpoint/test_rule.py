"""A model has all of its weights from the file, or the file is refused."""

import pytest
import torch
from mmengine.model import BaseTTAModel
from torch import nn

from focal_mm.checkpoint import CheckpointError
from focal_mm.checkpoint.rule import load_weights


class Detector(nn.Module):
    """Parts as a detector's, and the kinds of buffers that models have."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        self.head = nn.Linear(4, classes)
        self.register_buffer("index", torch.arange(4.0))
        self.register_buffer("mask", torch.full((2,), -torch.inf))


@pytest.fixture
def model() -> Detector:
    return Detector()


@pytest.fixture
def state(model: Detector) -> dict[str, torch.Tensor]:
    """Weights of another detector of the same kind."""
    torch.manual_seed(1)
    return Detector().state_dict()


def part(state: dict, *names: str) -> dict:
    return {key: value for key, value in state.items() if key.startswith(names)}


def is_loaded(model: nn.Module, state: dict) -> bool:
    own = model.state_dict()
    return all(own[name].equal(state[name]) for name in part(own, "backbone", "head"))


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "ema_", "model.module."])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_prefixes_and_layouts_of_files(model, state, prefix, key):
    named = {prefix + name: value for name, value in state.items()}
    assert load_weights(model, {key: named} if key else named, "x.pth") == []
    assert is_loaded(model, state)


def test_a_swin_transformer_gets_its_own_weights():
    """Which would be converted for a Focal Transformer."""
    from mmpretrain.models import SwinTransformer

    def build() -> nn.ModuleDict:
        arch = dict(embed_dims=8, depths=[2, 2], num_heads=[1, 2])
        return nn.ModuleDict(dict(backbone=SwinTransformer(arch, out_indices=[1])))

    model, other = build(), build()
    state = {k: torch.rand_like(v.float()) for k, v in other.state_dict().items()}
    load_weights(model, state, "swin.pth")
    name = "backbone.stages.0.downsample.reduction.weight"
    assert torch.equal(model.state_dict()[name], state[name])


def test_averages_beside_the_weights_are_left(model, state):
    averages = {f"ema_{name}": value + 1 for name, value in state.items()}
    (note,) = load_weights(model, {**state, **averages}, "x.pth")
    assert f"{len(averages)} weights of x.pth have no place" in note
    assert is_loaded(model, state)


@pytest.mark.parametrize(
    ("absent", "note"),
    [
        ("backbone.1.num_batches_tracked", None),
        ("index", "lacks 1 buffers, which are as the config makes them: index"),
    ],
)
def test_what_may_be_absent(model, state, absent, note):
    del state[absent]
    notes = load_weights(model, dict(state_dict=state), "x.pth")
    assert len(notes) == (note is not None)
    assert note is None or note in notes[0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("backbone",),
            r"it lacks 2 of 8 weights, in head \(2\).*init_cfg.checkpoint=x",
        ),
        (
            ("head",),
            r"in backbone \(6\), the first is backbone\.0\.weight: needed is a",
        ),
        (("backbone.0", "head"), r"lacks 4 of 8 weights, in backbone \(4\)"),
    ],
)
def test_missing_weights(model, state, names, message):
    some = part(state, *names)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_weights(model, some, "x.pth")
    assert "\n" not in str(caught.value)

    before = {name: value.clone() for name, value in model.state_dict().items()}
    notes = load_weights(model, some, "x.pth", allow_partial=True)
    assert "keep their random values, in " in notes[0]
    for name, value in model.state_dict().items():
        assert value.equal(some.get(name, before[name]))


def test_running_statistics_are_weights(model, state):
    del state["backbone.1.running_mean"]
    with pytest.raises(CheckpointError, match=r"first is backbone\.1\.running_mean"):
        load_weights(model, state, "x.pth")


def test_other_shapes(state):
    model = Detector(classes=7)
    first = (
        r"head\.weight is \(5, 4\) in the file and \(7, 4\) in the model, and 1 more"
    )
    with pytest.raises(CheckpointError, match=f"{first}.*num_classes"):
        load_weights(model, state, "x.pth")
    (note,) = load_weights(model, state, "x.pth", allow_partial=True)
    assert "2 of the model's 8 weights keep their random values, in head (2)" in note
    assert model.backbone[0].weight.equal(state["backbone.0.weight"])


@pytest.mark.parametrize("allow_partial", [True, False])
def test_files_of_other_models(model, allow_partial):
    other = dict(conv=torch.ones(3))
    with pytest.raises(CheckpointError, match=r"none of its names: .* conv .*bone\.0"):
        load_weights(model, other, "x.pth", allow_partial)


def test_bare_backbone(model, state):
    bare = {k.removeprefix("backbone."): v for k, v in part(state, "backbone").items()}
    with pytest.raises(CheckpointError, match=r"init_cfg\.checkpoint=x\.pth"):
        load_weights(model, bare, "x.pth", allow_partial=True)


@pytest.mark.parametrize("allow_partial", [True, False])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["head.weight", "backbone.1.running_var"])
def test_weights_that_are_no_numbers(model, state, name, value, allow_partial):
    state[name].flatten()[-1] = value
    with pytest.raises(CheckpointError, match=f"1 of 11 weights hold NaN.* {name}"):
        load_weights(model, state, "x.pth", allow_partial)


def test_versions_of_layers_are_told(model, state):
    """By them layers know how to read what older ones have written."""

    class Versioned(nn.Linear):
        _version = 2

        def _load_from_state_dict(self, state_dict, prefix, metadata, *rest) -> None:
            self.read = metadata.get("version")
            super()._load_from_state_dict(state_dict, prefix, metadata, *rest)

    source, target = (nn.Sequential(Versioned(2, 2)) for _ in range(2))
    state = source.state_dict()
    load_weights(target, dict(state_dict=state), "x.pth")
    assert target[0].read == 2
    wrapped = type(state)((f"model.{name}", value) for name, value in state.items())
    wrapped._metadata = {f"model.{k}": v for k, v in state._metadata.items()}
    load_weights(target, dict(state_dict=wrapped), "x.pth")
    assert target[0].read == 2


def test_wrappers_are_looked_through(model, state):
    class Augmented(BaseTTAModel):
        def merge_preds(self, data_samples_list: list) -> list:
            return data_samples_list

    model.test_step = model.forward
    assert load_weights(Augmented(module=model), state, "x.pth") == []
    assert is_loaded(model, state)


def test_deeper_backbones_are_other_models(small_backbone):
    """All weights are there and fit, with others between them."""
    model, deeper = (nn.Module() for _ in range(2))
    model.backbone = small_backbone()
    arch = dict(embed_dims=16, depths=(2, 1, 2, 1), num_heads=(1, 2, 4, 8))
    deeper.backbone = small_backbone(arch=arch)
    with pytest.raises(CheckpointError, match=r"x\.pth: .*other depths"):
        load_weights(model, deeper.state_dict(), "x.pth")
    (note,) = load_weights(model, deeper.state_dict(), "x.pth", allow_partial=True)
    assert "have no place in the model, the first is backbone.stages.2.blocks.1" in note
