"""The released models' own outputs and gradients, to float32 rounding."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from focal_mm import FocalTransformer
from focal_mm.checkpoint import convert_released, from_released_args
from focal_mm.ops import backend_support

HERE = Path(__file__).parent
SUBSET = json.loads((HERE / "subset.json").read_text())
CASES = [
    "v1_224",
    "v1_rect_pad",
    "v1_det_focal",
    "v1_conv_layerscale_prenorm",
    "v1_shift",
    "v1_levels3",
    "v1_pool_conv_expand_even",
    "v1_window_only",
    "v1_ape_qknobias",
    "v1_window14",
    "v2_fast_224",
]
BACKENDS = {
    version: [
        support.name
        for support in backend_support()
        if support.ok and support.key_selection == key_selection
    ]
    for version, key_selection in (("v1", "window"), ("v2", "topk"))
}
OUTPUT_TOLERANCE = 1e-5
GRADIENT_TOLERANCE = 1e-4


def device_of(backend):
    """The kernels' own device where there is one; else they are interpreted."""
    cuda = backend == "triton" and torch.cuda.is_available()
    return torch.device("cuda" if cuda else "cpu")


@pytest.fixture(autouse=True)
def full_precision_convolutions():
    with torch.backends.cudnn.flags(allow_tf32=False):
        yield


def with_backends(names):
    """Each case with each backend that its version of the block can run on."""
    return [(name, backend) for name in names for backend in BACKENDS[name[:2]]]


def part(data, prefix, device):
    """Tensors whose names start with ``prefix``, without it."""
    return {
        name.removeprefix(prefix): torch.from_numpy(data[name]).to(device)
        for name in data.files
        if name.startswith(prefix)
    }


def build(case, backend, **overrides):
    config = from_released_args(
        case["kwargs"], version=case["version"], img_size=case["img_size"]
    )
    config.pop("type")
    config.update(attn_backend=backend, **overrides)
    return FocalTransformer(**config).to(device_of(backend))


def linear_head(converted):
    weight = converted["head.fc.weight"]
    head = nn.Linear(*reversed(weight.shape), device=weight.device)
    head.load_state_dict({"weight": weight, "bias": converted["head.fc.bias"]})
    return head


def backbone_part(converted):
    return {
        name.removeprefix("backbone."): value
        for name, value in converted.items()
        if name.startswith("backbone.")
    }


def check_gradients(model, head, released_gradients, relative_error, every=1):
    """Compare with gradients under released names, flattened and thinned out."""
    converted = convert_released(released_gradients)
    assert converted
    for name, expected in converted.items():
        if name.startswith("head.fc."):
            parameter = head.get_parameter(name.removeprefix("head.fc."))
        else:
            parameter = model.get_parameter(name.removeprefix("backbone."))
        got = parameter.grad.flatten()[::every]
        error = relative_error(got, expected.flatten())
        assert error < GRADIENT_TOLERANCE, f"{name}: {error:.1e}"


@pytest.mark.parametrize(("name", "backend"), with_backends(CASES))
def test_released_network(name, backend, conformance_dir, relative_error):
    """Whole networks: every stage, the logits, and the gradients."""
    case = json.loads((conformance_dir / "index.json").read_text())[name]
    with np.load(conformance_dir / f"{name}.npz") as data:
        state, io, gradients = (
            part(data, p, device_of(backend)) for p in ("sd/", "io/", "grad/")
        )
    converted = convert_released(state)
    model, head = build(case, backend), linear_head(converted)
    model.load_state_dict(backbone_part(converted), strict=True)
    stages = []
    for stage in model.stages:
        stage.register_forward_hook(lambda _, __, out: stages.append(out[0]))

    image = io["input"].requires_grad_()
    logits = head(model(image)[-1].mean((2, 3)))
    for index, stage in enumerate(stages):
        error = relative_error(stage.permute(0, 3, 1, 2), io[f"stage{index}"])
        assert error < OUTPUT_TOLERANCE, f"stage {index}: {error:.1e}"
    assert relative_error(logits, io["logits"]) < OUTPUT_TOLERANCE

    (logits * io["grad_weight"]).sum().backward()
    image_grad = image.grad[:1, :, ::4, ::4]
    assert relative_error(image_grad, io["grad_input"]) < GRADIENT_TOLERANCE
    check_gradients(model, head, gradients, relative_error)


def test_all_cases_are_tested(conformance_dir):
    index = json.loads((conformance_dir / "index.json").read_text())
    assert sorted(CASES) == sorted(index)


@pytest.mark.parametrize(("name", "backend"), with_backends(SUBSET["cases"]))
def test_released_stage(name, backend, relative_error):
    """Pieces of networks that the repository itself carries."""
    case = SUBSET["cases"][name]
    with np.load(HERE / "subset.npz") as data:
        state, io, gradients = (
            part(data, f"{name}/{p}/", device_of(backend)) for p in ("sd", "io", "grad")
        )
    converted = convert_released(state)
    first, last = sorted(int(key[-1]) for key in io if key.startswith("stage"))
    model = build(case, backend, out_indices=(last,))
    for key, value in backbone_part(converted).items():
        parameter = model.get_parameter(key)
        assert parameter.shape == value.shape, key
        parameter.data.copy_(value)

    x = io[f"stage{first}"]
    stage_input = model.stages[first].downsample(x)
    out, _ = model.stages[last](stage_input)
    expected = io[f"stage{last}"]
    assert relative_error(out.permute(0, 3, 1, 2), expected) < OUTPUT_TOLERANCE
    if "logits" not in io:
        return
    head = linear_head(converted)
    logits = head(getattr(model, f"norm{last}")(out).mean((1, 2)))
    assert relative_error(logits, io["logits"]) < OUTPUT_TOLERANCE
    (logits * io["grad_weight"]).sum().backward()
    check_gradients(model, head, gradients, relative_error, SUBSET["gradient_stride"])
