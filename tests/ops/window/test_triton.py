"""When the Triton kernels are chosen, and where they cannot run, why."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from focal_mm.ops import FocalGeometry, focal_attention
from focal_mm.ops.window.triton import TRITON, backend

HERE = Path(__file__).parent
KERNEL_TESTS = ["test_triton_kernels.py", "test_topk_triton_kernels.py"]


def arguments(dtype=torch.float32, channels=8, device="cpu"):
    """One call without neighbours and coarse levels."""
    fine = torch.zeros(1, 2, 2, 1, channels, dtype=dtype, device=device)
    bias = torch.zeros(1, 4, 4, device=device)
    return dict(
        query=fine,
        key=fine,
        value=fine,
        pooled_keys=[],
        pooled_values=[],
        window_bias=bias,
        neighbor_bias=None,
        pooled_biases=[],
        geometry=FocalGeometry(2),
    )


@pytest.mark.parametrize("tests", KERNEL_TESTS)
@pytest.mark.parametrize(
    "tier", ["not slow", pytest.param("slow", marks=pytest.mark.slow)]
)
def test_kernels_in_tritons_interpreter(tier, tests):
    """The tests of the kernels, in a process that has chosen the interpreter."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    process = subprocess.run(
        [*command, "-m", tier, str(HERE / tests)],
        cwd=HERE.parents[1],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture
def available(monkeypatch):
    """Makes the kernels believe that this machine can run them, on its CPU."""
    for answer in ("_why_unavailable", "_why_not_on"):
        monkeypatch.setattr(backend, answer, lambda *_: "")


@pytest.mark.usefixtures("available")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (arguments(torch.float64), "float16, got torch.float64"),
        (dict(key=torch.zeros(1, 2, 2, 1, 8).half()), "float16, torch.float32"),
        (arguments(channels=65), "65 channels, at most 64"),
        (dict(dropout_p=0.5), "dropout_p=0.5"),
    ],
)
def test_inputs_that_the_kernels_do_not_take_are_named(changes, reason):
    with pytest.raises(ValueError, match=reason):
        focal_attention(**{**arguments(), **changes}, backend="triton")


@pytest.mark.parametrize(
    ("installed", "cuda", "reason"),
    [
        (False, True, "triton is not installed"),
        (True, False, "no CUDA device"),
        (True, True, ""),
    ],
)
def test_machine_that_cannot_run_them_says_why(installed, cuda, reason, monkeypatch):
    monkeypatch.setattr(backend, "_installed", lambda: installed)
    monkeypatch.setattr(backend, "_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    backend._why_unavailable.cache_clear()
    try:
        assert reason in TRITON.unavailable_reason()
        assert bool(reason) == bool(TRITON.unavailable_reason())
    finally:
        backend._why_unavailable.cache_clear()


def test_devices_that_cannot_run_them_are_named(monkeypatch):
    monkeypatch.setattr(backend, "_interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    backend._why_not_on.cache_clear()
    try:
        assert "on 'cpu'" in backend._why_not_on(torch.device("cpu"))
        assert "has 7.5" in backend._why_not_on(torch.device("cuda", 0))
    finally:
        backend._why_not_on.cache_clear()
