"""Nothing that is wrong gets measured."""

import math

import pytest
import torch

from benchmarks.checking import (
    MismatchError,
    check_backends,
    check_compiled,
    checked_shape,
    relative_error,
)
from benchmarks.models import (
    REFERENCE,
    build_focal,
    focal_contestants,
    parse_arch_option,
)
from benchmarks.steps import Precision, Runner

ARCH = parse_arch_option("8:1,1:1,2")
CPU = torch.device("cpu")


def check(backends, mode, dtype=torch.float32):
    contestants, _ = focal_contestants(ARCH, "detection", backends)
    return check_backends(
        contestants,
        lambda shape: build_focal(ARCH, "detection", REFERENCE, with_cp=True),
        (60, 33),
        mode,
        Precision(CPU, dtype),
        "detection",
    )


@pytest.mark.parametrize("mode", ["inference", "training"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_right_backends_pass(mode, dtype):
    checks, failed = check(None, mode, dtype)
    assert not failed
    in_float32 = [c for c in checks if c.dtype == "float32"]
    assert all(c.output < 1e-5 for c in in_float32)
    if mode == "training":
        assert all(c.gradient < 1e-4 for c in in_float32)
    else:
        assert all(c.gradient is None for c in checks)
    if dtype == torch.bfloat16:
        # The dtype was really used.
        assert all(c.output > 1e-4 for c in checks if c.dtype == "bfloat16")


def test_wrong_output(plant):
    plant("wrong", finish=lambda out: out * 1.01)
    with pytest.raises(MismatchError, match=r"Focal \(wrong\) is wrong.*output"):
        check(None, "inference")


def test_wrong_gradient_in_training_only(plant):
    from tests.benchmarks.conftest import detach_key

    plant("wrong", detach_key)
    assert not check(["wrong"], "inference")[1]
    with pytest.raises(MismatchError, match=r"Focal \(wrong\).*gradient of stages"):
        check(["wrong"], "training")


def test_wrong_in_half_precision_only(plant):
    def finish(out):
        return out if out.dtype == torch.float32 else out * 20

    plant("wrong", finish=finish)
    assert not check(["wrong"], "inference")[1]
    with pytest.raises(MismatchError, match="in bfloat16"):
        check(["wrong"], "inference", torch.bfloat16)


def test_nan_is_wrong(plant):
    plant("wrong", finish=lambda out: out * math.nan)
    with pytest.raises(MismatchError, match="off by inf"):
        check(["wrong"], "inference")


def test_what_cannot_run_is_left_out_with_its_reason(plant):
    def fail(inputs):
        raise RuntimeError("no kernel\nfor this")

    plant("broken", fail)
    checks, failed = check(["sdpa", "broken"], "inference")
    assert [c.backend for c in checks] == ["sdpa"]
    assert failed == {"Focal (broken)": "RuntimeError: no kernel for this"}


def test_compiled_model_is_compared_with_itself():
    (contestant,), _ = focal_contestants(ARCH, "detection", ["sdpa"])
    runner = Runner.make(contestant, (28, 28), 1, "training", Precision(CPU))
    check_compiled("ours", runner)
    runner.called = build_focal(ARCH, "imagenet", "sdpa")
    with pytest.raises(MismatchError, match="ours, compiled, is wrong"):
        check_compiled("ours", runner)


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
        ((2048, 2048), "training", (256, 480)),
    ],
)
def test_large_images_are_checked_smaller(shape, mode, expected):
    """With the same remainders, so that maps are padded alike."""
    assert checked_shape(shape, mode) == expected
