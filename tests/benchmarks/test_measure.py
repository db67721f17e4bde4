"""Times by a clock that the steps themselves move, and bytes held at one time."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from benchmarks.measure import Precision, Step, run_rounds, summary

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass only where a step says so."""

    def __init__(self):
        self.now = 0.0
        self.turns = []

    def __call__(self):
        return self.now

    def step(self, name, *seconds):
        left = list(seconds)

        def run():
            self.now += left.pop(0) if len(left) > 1 else left[0]
            self.turns.append(name)

        return run


def test_each_round_begins_with_another():
    clock = Clock()
    run_rounds({name: clock.step(name, 1) for name in "abc"}, 4, CPU, clock)
    warm_up, turns = clock.turns[:6], clock.turns[6:]
    assert "".join(warm_up) == "aabbcc"
    assert "".join(turns) == "abcbcacababc"


def test_seconds_of_each_round_without_warm_up():
    clock = Clock()
    steps = {"a": clock.step("a", 9, 1, 3, 1, 8), "b": clock.step("b", 9, 1, 2)}
    found = run_rounds(steps, 3, CPU, clock)
    assert found == {"a": [3, 1, 8], "b": [2, 2, 2]}


def test_short_steps_share_a_turn():
    clock = Clock()
    found = run_rounds({"a": clock.step("a", 0.002)}, 2, CPU, clock)
    assert found["a"] == pytest.approx([0.002, 0.002])
    assert len(clock.turns) == 2 + 2 * 5


def test_summary_is_of_medians():
    found = summary([3.0, 1.0, 100.0, 2.0, 4.0])
    assert found["median_seconds"] == 3
    assert found["spread"] == pytest.approx((4 - 2) / 3)
    assert summary([2.0])["spread"] == 0


@pytest.mark.parametrize("mode", ["inference", "training"])
def test_memory_is_the_largest_sum_at_one_time(mode):
    """Weights, and at inference both hidden maps at once; in training what AdamW and
    the backward pass hold, too."""
    layers = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
    model = nn.Sequential(layers, nn.Unflatten(0, (1, 100)))
    step = Step(model, torch.randn(100, 64), mode, Precision(CPU))
    step()
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    hidden = 4 * 100 * 256
    peak = step.peak_bytes()
    if mode == "inference":
        assert peak == pytest.approx(weights + 2 * hidden, rel=0.01)
    else:
        # Twice the weights are the optimizer's moments, and once the gradients.
        assert peak > 4 * weights
    assert step.peak_bytes() == peak


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's allocator")
def test_warm_allocator_needs_no_fresh_pages():
    code = """
import resource
import numpy as np
from benchmarks.common import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.empty(2**26, np.uint8).fill(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
cold = min(faults() for _ in range(10))
assert keep_freed_memory()
print(cold, min(faults() for _ in range(10)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cold, warm = map(int, done.stdout.split())
    assert cold > warm == 0
