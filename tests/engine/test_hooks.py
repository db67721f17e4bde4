"""Random numbers that do not know whether the run was resumed."""

import random
from types import SimpleNamespace

import numpy as np
import torch

from focal_mm.engine import hooks


def run(first: int, last: int) -> list[tuple[float, ...]]:
    """What one process draws for the data and for the step of its iterations."""
    hook, runner = hooks.IterSeedHook(), SimpleNamespace(seed=3, iter=first)
    # A new process begins with the same state, wherever it resumes.
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    drawn = []
    hook.before_train_epoch(runner)
    # As a loader does when iteration begins.
    torch.empty((), dtype=torch.int64).random_()
    for runner.iter in range(first, last):
        data = random.random(), np.random.rand()
        hook.before_train_iter(runner, batch_idx=0)
        drawn.append((*data, random.random(), np.random.rand(), torch.rand(()).item()))
        hook.after_train_iter(runner, batch_idx=0)
    return drawn


def test_resumed_run_draws_what_an_unbroken_one_draws():
    unbroken = run(0, 6)
    assert run(0, 3) + run(3, 6) == unbroken
    numbers = [number for drawn in unbroken for number in drawn]
    assert len(set(numbers)) == len(numbers)


def test_ranks_draw_differently(monkeypatch):
    first = run(0, 1)
    monkeypatch.setattr(hooks, "get_rank", lambda: 1)
    assert run(0, 1) != first
