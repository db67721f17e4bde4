"""What holds for the backends of every key selection that is registered."""

import dataclasses
import logging
import subprocess
import sys

import pytest
import torch

from focal_mm.layers import ATTENTIONS
from focal_mm.ops import BACKENDS, backend_support
from focal_mm.ops.common.backend import Backend
from focal_mm.ops.common.log import log_once
from tests.ops.cases import attend, check_against_naive, check_in_its_dtype
from tests.ops.topk import test_topk_attention as topk
from tests.ops.window import test_focal_attention as window

MAKERS = {"window": window.random_case, "topk": topk.random_case}
"""Of each key selection, what makes the arguments of a call of a seed and a dtype."""

# The Triton kernels have their own tests: they take no float64, and a GPU's tensors.
RUNNING = [
    (item.key_selection, item.name)
    for item in backend_support()
    if item.ok and item.name != "triton"
]
FAST = [pair for pair in RUNNING if pair[1] != "naive"]
# What computes in float32 at most.
FLOAT32 = ["cpu"]
SEEDS = [
    *range(14),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(14, 100)),
]


def test_every_key_selection_has_all_its_parts():
    assert BACKENDS.keys() == ATTENTIONS.keys() == MAKERS.keys()
    for backends in BACKENDS.values():
        assert backends[-1].name == "naive"
    listed = {(item.key_selection, item.name) for item in backend_support()}
    assert listed == {(key, b.name) for key, all_ in BACKENDS.items() for b in all_}


@pytest.mark.parametrize(("selection", "backend"), FAST)
@pytest.mark.parametrize("seed", SEEDS)
def test_backend_agrees_with_naive(seed, selection, backend, relative_error):
    if backend in FLOAT32:
        case = MAKERS[selection](seed, torch.float32)
        check_in_its_dtype(case, backend, 2e-6, relative_error)
    else:
        check_against_naive(MAKERS[selection](seed), backend)


@pytest.mark.parametrize(("selection", "backend"), FAST)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 3e-3)],
)
def test_backend_in_other_dtypes(dtype, tolerance, selection, backend, relative_error):
    for seed in range(4):
        case = MAKERS[selection](seed, dtype)
        check_in_its_dtype(case, backend, tolerance, relative_error)


@pytest.mark.parametrize(
    ("selection", "backend"), [*RUNNING, *((key, "auto") for key in MAKERS)]
)
def test_dropout_drops_and_keeps_the_mean_or_is_refused(selection, backend):
    case = MAKERS[selection](2, torch.float32)
    with torch.no_grad():
        for values in (case["value"], *case["pooled_values"]):
            values.fill_(1.0)
        if backend == "cpu":
            with pytest.raises(ValueError, match="does not drop attention weights"):
                attend(case, backend, dropout_p=0.5)
            return
        runs = [attend(case, backend, dropout_p=0.5) for _ in range(200)]
    assert runs[0].std() > 0.01
    assert abs(torch.stack(runs).mean() - 1) < 0.05


@pytest.fixture(params=MAKERS)
def with_broken(request, monkeypatch):
    """A key selection with a backend in front that refuses all inputs."""
    broken = Backend(
        "broken",
        lambda inputs: inputs.value,
        unsupported_reason=lambda inputs: "it never can",
        preferred_on="cpu",
    )
    changed = (broken, *BACKENDS[request.param])
    monkeypatch.setitem(BACKENDS, request.param, changed)
    log_once.cache_clear()
    return request.param


def test_backend_that_cannot_run_says_why_and_auto_passes_over_it(with_broken, caplog):
    case = MAKERS[with_broken](1, torch.float32)
    with pytest.raises(ValueError, match="'broken' cannot run because it never can"):
        attend(case, "broken")
    with caplog.at_level(logging.WARNING, logger="focal_mm"):
        attend(case, "auto")
        attend(case, "auto")
    (line,) = caplog.messages
    assert "'broken' cannot run because it never can" in line


@pytest.mark.parametrize(("device", "tried"), [("cpu", 0), ("meta", 1)])
def test_auto_tries_a_backend_first_on_its_device_only(device, tried, monkeypatch):
    """With the meta device in the place of a GPU."""
    asked = []
    (*others, naive) = BACKENDS["window"]
    twin = dataclasses.replace(
        naive,
        name="twin",
        unavailable_reason=lambda: asked.append(1) or "this test says so",
        preferred_on="meta",
    )
    monkeypatch.setitem(BACKENDS, "window", (*others, naive, twin))
    case = window.random_case(3)
    case = {
        name: value.to(device)
        if isinstance(value, torch.Tensor)
        else [tensor.to(device) for tensor in value]
        if isinstance(value, list)
        else value
        for name, value in case.items()
    }
    attend(case, "auto")
    assert len(asked) == tried


def test_ops_need_pytorch_alone():
    """And say what they fall back from where Python's own logging shows it."""
    program = """
import sys

sys.modules.update(dict.fromkeys(("mmengine", "mmcv", "mmdet", "triton")))
import torch
import focal_mm
from focal_mm.ops import *

maps = torch.randn(1, 4, 4, 1, 8)
bias = torch.zeros(1, 4, 4)

def call(query):
    rest = maps, maps, [], [], bias, None, []
    return focal_attention(query, *rest, geometry=FocalGeometry(2))

out = call(maps)
print(tuple(out.shape), tuple(torch.func.jvp(call, (maps,), (maps,))[1].shape))
geometry = TopKGeometry(2, topk=4)
table = torch.zeros(1, 4, 4)
print(tuple(topk_attention(maps, maps, maps, [], [], [table], geometry=geometry).shape))
print([item.name for item in backend_support() if not item.ok])
try:
    focal_mm.FocalTransformer
except ModuleNotFoundError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    first, second, third, last = done.stdout.splitlines()
    assert first == "(1, 4, 4, 1, 8) (1, 4, 4, 1, 8)"
    assert second == "(1, 4, 4, 1, 8)"
    assert third == "['triton', 'triton']"
    assert last.startswith("focal_mm.FocalTransformer needs MMEngine: install")
    assert "runs on 'sdpa'" in done.stderr
