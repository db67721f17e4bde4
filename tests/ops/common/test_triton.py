"""When the Triton kernels can run, and where they cannot, why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from focal_mm.ops import FocalGeometry, TopKGeometry
from focal_mm.ops.common.triton import backend
from tests.ops.triton_cases import call, make_case, map_tensors

KERNEL_TESTS = Path(__file__).with_name("test_triton_kernels.py")
MIN_TRITON = ".".join(map(str, backend.MIN_TRITON))
GEOMETRIES = {"window": FocalGeometry(2), "topk": TopKGeometry(2, 3, 1)}


@pytest.mark.parametrize(
    "tier", ["not slow", pytest.param("slow", marks=pytest.mark.slow)]
)
def test_kernels_in_tritons_interpreter(tier):
    """The tests of the kernels, in a process that has chosen the interpreter."""
    pytest.importorskip("triton", minversion=MIN_TRITON)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [*command, "-m", tier, str(KERNEL_TESTS)],
        cwd=KERNEL_TESTS.parents[3],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture
def fresh_answers():
    """Answers about the machine are kept: a test that feigns one forgets them."""
    answers = (backend._machine_reason, backend._device_reason)
    for answer in answers:
        answer.cache_clear()
    yield
    for answer in answers:
        answer.cache_clear()


def half_of_the_maps(case):
    return {**case, "value": case["value"].half()}


@pytest.mark.parametrize("selection", GEOMETRIES)
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda case: map_tensors(torch.Tensor.double, case), "got torch.float64"),
        (half_of_the_maps, "float16, torch.float32"),
        (lambda case: {**case, "dropout_p": 0.5}, "dropout_p=0.5"),
        (None, "65 channels, at most 64"),
    ],
)
def test_inputs_that_the_kernels_do_not_take_are_named(
    selection, change, reason, monkeypatch
):
    for answer in ("_machine_reason", "_device_reason"):
        monkeypatch.setattr(backend, answer, lambda *_: "")
    channels = 8 if change else 65
    case = make_case(GEOMETRIES[selection], (1, 1), (1, 1, channels))
    with pytest.raises(ValueError, match=f"'triton' cannot run because .*{reason}"):
        call(change(case) if change else case, "triton")


@pytest.mark.usefixtures("fresh_answers")
@pytest.mark.parametrize(
    ("installed", "cuda", "reason"),
    [
        (False, True, "triton is not installed"),
        (True, False, "no CUDA device"),
        (True, True, ""),
    ],
)
def test_machine_that_cannot_run_them_says_why(installed, cuda, reason, monkeypatch):
    if installed:
        pytest.importorskip("triton", minversion=MIN_TRITON)
    monkeypatch.setattr(backend, "_installed", lambda: installed)
    monkeypatch.setattr(backend, "_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert reason in backend.unavailable_reason()
    assert bool(reason) == bool(backend.unavailable_reason())


@pytest.mark.usefixtures("fresh_answers")
def test_devices_that_cannot_run_them_are_named(monkeypatch):
    monkeypatch.setattr(backend, "_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "on 'cpu'" in backend._device_reason(torch.device("cpu"))
    assert "has 7.5" in backend._device_reason(torch.device("cuda", 0))


def test_machine_without_triton_imports_all_and_says_so():
    program = """
import sys
sys.modules["triton"] = None
from focal_mm.ops.topk.triton import TRITON_TOPK
from focal_mm.ops.window.triton import TRITON
from focal_mm.ops.common.triton.backend import unavailable_reason
assert TRITON.name == TRITON_TOPK.name == "triton"
print(unavailable_reason())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "triton is not installed", done.stderr
