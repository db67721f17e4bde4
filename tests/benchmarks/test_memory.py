"""Bytes held at one time."""

import functools

import pytest
import torch
from torch import nn

from benchmarks.memory import clear_caches, held_bytes, peak_allocated
from benchmarks.models import focal_contestants, parse_arch_option
from benchmarks.steps import Precision, Runner
from focal_mm.ops.window.geometry import window_bias_index

CPU = torch.device("cpu")


def test_peak_is_the_largest_sum_at_one_time():
    def run() -> None:
        a = torch.empty(1000)
        del a
        b = torch.empty(500)
        c = torch.empty(700)
        del b, c

    assert peak_allocated(run, CPU) == pytest.approx(1200 * 4, abs=256)


def test_buffers_inside_of_operations_count():
    """A product of a transposed copy, as the backward pass of a layer makes it."""
    model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    x = torch.randn(100, 64)

    def run() -> None:
        with torch.no_grad():
            model(x)

    # Both hidden maps at once, before the output is.
    assert peak_allocated(run, CPU) == pytest.approx(2 * 100 * 256 * 4, rel=0.01)


def test_own_masks_count_for_everyone():
    """What one has cached does not make the next one look small."""

    def run() -> None:
        window_bias_index(7, CPU)

    clear_caches()
    first = peak_allocated(run, CPU)
    assert first >= 49 * 49 * 8
    assert peak_allocated(run, CPU) == 0
    clear_caches()
    assert peak_allocated(run, CPU) == first


def test_caches_of_others_stay():
    calls = []
    cached = functools.lru_cache(lambda: calls.append(1))
    cached()
    clear_caches()
    cached()
    assert calls == [1]


def test_optimizer_state_is_held():
    arch = parse_arch_option("8:1:1")
    (contestant,), _ = focal_contestants(arch, None, ["sdpa"])
    runner = Runner.make(contestant, (28, 28), 1, "training", Precision(CPU))
    tensors = [*runner.model.parameters()]
    parameters = 4 * sum(p.numel() for p in tensors)
    assert held_bytes(runner.model, runner.optimizer) == parameters
    runner.step()
    steps = 4 * len(tensors)
    assert held_bytes(runner.model, runner.optimizer) == 3 * parameters + steps
