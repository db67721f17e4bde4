"""Nothing that is wrong gets measured."""

import math

import pytest
import torch

from benchmarks.checks import (
    MismatchError,
    check_candidate,
    check_compiled,
    checked_shape,
    relative_error,
)
from benchmarks.measure import Precision, Step
from benchmarks.models import build_focal, focal_candidates

CPU = torch.device("cpu")
BF16 = Precision(CPU, torch.bfloat16)


def check(mode, precision=None, change=None):
    """Check all backends, or those of sdpa, to which ``change`` is done."""
    for selection in ("window", "topk"):
        for candidate in focal_candidates("toy", "detection", selection):
            if change and candidate.label == "sdpa":
                candidate = changed(candidate, change)
            if not change or candidate.label == "sdpa":
                check_candidate(candidate, (60, 33), mode, precision or Precision(CPU))


def changed(candidate, change):
    def build(shape):
        model = candidate.build(shape)
        change(model)
        return model

    return candidate._replace(build=build)


def scale_output(factor, only_half=False):
    def scale(module, args, maps):
        if only_half and not torch.is_autocast_enabled("cpu"):
            return maps
        return tuple(m * factor for m in maps)

    return lambda model: model.register_forward_hook(scale)


def scale_gradient(model):
    model.stages[0].blocks[0].attn.qkv.weight.register_hook(lambda grad: grad * 1.01)


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("precision", [Precision(CPU), BF16])
def test_right_backends_pass(mode, precision):
    check(mode, precision)


@pytest.mark.parametrize(
    ("change", "mode", "precision", "message"),
    [
        (scale_output(1.01), "inference", None, r"Focal \(sdpa\) is wrong.*output"),
        (scale_output(math.nan), "inference", None, "off by inf"),
        (scale_output(20, only_half=True), "inference", BF16, "in torch.bfloat16"),
        (scale_gradient, "training", None, r"gradient of stages.0.blocks.0.attn.qkv"),
    ],
)
def test_wrong_ones_are_refused(change, mode, precision, message):
    with pytest.raises(MismatchError, match=message):
        check(mode, precision, change)


def test_compiled_model_is_compared_with_itself(monkeypatch):
    model = build_focal((28, 28), "toy", "detection", "sdpa")
    step = Step(model, torch.randn(1, 3, 28, 28), "training", Precision(CPU))
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: model)
    check_compiled("ours", step)
    other = build_focal((28, 28), "toy", "imagenet", "sdpa")
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: other)
    with pytest.raises(MismatchError, match="ours, compiled, is wrong"):
        check_compiled("ours", step)


def test_relative_error():
    reference = torch.tensor([4.0, -8.0])
    assert relative_error(torch.tensor([4.0, -7.0]), reference) == 1 / 8
    assert relative_error(torch.tensor([4.0]), reference) == math.inf


@pytest.mark.parametrize(
    ("shape", "mode", "expected"),
    [
        ((224, 224), "training", (224, 224)),
        ((800, 1333), "inference", (800, 1333)),
        ((800, 1333), "training", (352, 437)),
        ((2048, 2048), "training", (256, 256)),
    ],
)
def test_large_images_are_checked_smaller(shape, mode, expected):
    """With the same remainders, so that maps are padded alike."""
    assert checked_shape(shape, mode) == expected
