"""Random numbers that do not know whether the run was resumed."""

import logging
import os
import random
import signal
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from focal_mm.engine import hooks


class Drawing(Dataset):
    """What loading a sample draws, as augmentations do."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[float, ...]:
        return random.random(), np.random.rand(), torch.rand(()).item()


class Batches:
    """As MMEngine's loops iterate; the maintained family's may skip."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader, self.iterator = loader, None

    def __next__(self) -> tuple[float, ...]:
        self.iterator = self.iterator or iter(self.loader)
        return next(self.iterator)

    def skip_iter(self, number: int) -> None:
        """Nothing to load: what is drawn here does not depend on the index."""


def skip_by_the_sampler(batches: Iterator, number: int) -> None:
    """As the maintained family resumes."""
    batches.skip_iter(number)


def skip_by_loading(batches: Iterator, number: int) -> None:
    """As upstream resumes."""
    for _ in range(number):
        next(batches)


def run(
    first: int, last: int, skip: Callable = skip_by_the_sampler
) -> list[tuple[float, ...]]:
    """What one process draws for the data and for the step of its iterations."""
    loader = DataLoader(Drawing(), batch_size=None)
    loop = SimpleNamespace(dataloader=loader, dataloader_iterator=Batches(loader))
    hook, runner = hooks.IterSeedHook(), SimpleNamespace(seed=3, iter=first)
    runner.train_loop = loop
    # A new process begins with the same state, wherever it resumes.
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    drawn = []
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    skip(loop.dataloader_iterator, first)
    for runner.iter in range(first, last):
        data = next(loop.dataloader_iterator)
        hook.before_train_iter(runner, batch_idx=0)
        drawn.append((*data, random.random(), np.random.rand(), torch.rand(()).item()))
        hook.after_train_iter(runner, batch_idx=0)
        # As a validation may draw.
        torch.rand(runner.iter)
    return drawn


@pytest.mark.parametrize("skip", [skip_by_the_sampler, skip_by_loading])
def test_resumed_run_draws_what_an_unbroken_one_draws(skip):
    unbroken = run(0, 6)
    assert run(0, 3) + run(3, 6, skip) == unbroken
    numbers = [number for drawn in unbroken for number in drawn]
    assert len(set(numbers)) == len(numbers)


def test_loops_over_epochs():
    """They iterate over the loader itself, and resume where an epoch begins."""

    def run(epochs: range) -> list[tuple[float, ...]]:
        loader = DataLoader(Drawing(), batch_size=None)
        hook, runner = hooks.IterSeedHook(), SimpleNamespace(seed=3)
        runner.iter = epochs.start * len(loader)
        runner.train_loop = SimpleNamespace(dataloader=loader)
        drawn = []
        hook.before_train(runner)
        for _ in epochs:
            hook.before_train_epoch(runner)
            for data in loader:
                drawn.append(data)
                hook.before_train_iter(runner, batch_idx=0)
                hook.after_train_iter(runner, batch_idx=0)
                runner.iter += 1
        return drawn

    assert run(range(1)) + run(range(1, 2)) == run(range(2))


def test_ranks_draw_differently(monkeypatch):
    first = run(0, 1)
    monkeypatch.setattr(hooks, "get_rank", lambda: 1)
    assert run(0, 1) != first


@pytest.mark.parametrize(
    ("total", "drawn"), [(6, [4, 5]), (7, [0, 1, 2, 3, 4, 5])], ids=["same", "changed"]
)
def test_epoch_goes_on_where_it_was_stopped(total, drawn):
    loader = DataLoader(list(range(6)), batch_size=1)
    runner = SimpleNamespace(_resume=True, train_dataloader=loader, logger=logging)
    hook = hooks.StopHook()
    hook.after_load_checkpoint(runner, dict(meta=dict(batches=(4, total))))
    hook.before_train(runner)
    assert len(loader) == 6
    assert [int(batch) for batch in loader] == drawn
    assert [int(batch) for batch in loader] == list(range(6))


def test_sigterm_is_passed_on_where_it_explains_an_error(monkeypatch):
    """As when a launcher ends all processes, and one has lost its connections."""
    raised, before = [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(hooks.signal, "raise_signal", raised.append)

    def fail(asks: bool) -> None:
        with hooks.StopHook().listening():
            if asks:
                os.kill(os.getpid(), signal.SIGTERM)
            raise KeyError

    for asks, expected in ((False, []), (True, [signal.SIGTERM])):
        with pytest.raises(KeyError):
            fail(asks)
        assert raised == expected
        assert signal.getsignal(signal.SIGTERM) == before
