"""Training hooks."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Makes each iteration's random numbers depend on its number only.

    A run that was stopped and resumed then draws the same numbers as one that was
    not: stochastic depth, sampled anchors and, with ``num_workers=0``, augmentations.
    (Loader workers keep random states of their own: with them a resumed run sees the
    same images in the same order, augmented differently.) Ranks draw differently from
    each other. Set ``randomness.seed`` to have the same numbers in every run.
    """

    # Before hooks of other priorities that might draw numbers themselves.
    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        """Seeds what iteration-based loops draw for their data, skipped data too."""
        loop = runner.train_loop
        # A loader that begins to iterate draws a number, at whatever iteration it is.
        loop.dataloader.generator = torch.Generator()
        if hasattr(loop, "dataloader_iterator"):
            loop.dataloader_iterator = _SeededBatches(runner, loop.dataloader_iterator)

    def before_train_epoch(self, runner: Any) -> None:
        """Seeds what loading an epoch's first data draws."""
        _seed_all(runner.seed, runner.iter, "data")

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Seeds what the iteration itself draws."""
        _seed_all(runner.seed, runner.iter, "step")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Seeds what loading the next iteration's data draws."""
        _seed_all(runner.seed, runner.iter + 1, "data")


class _SeededBatches:
    """An endless iterator over batches; each is drawn from its iteration's numbers.

    Resuming, upstream's MMEngine draws all batches of the past once more, after the
    hooks; the maintained one skips them by ``skip_iter``.
    """

    def __init__(self, runner: Any, batches: Any) -> None:
        self._runner = runner
        self._batches = batches

    def __next__(self) -> Any:
        _seed_all(self._runner.seed, self._runner.iter, "data")
        return next(self._batches)

    def skip_iter(self, num_iters: int) -> None:
        self._batches.skip_iter(num_iters)


def _seed_all(seed: int, iteration: int, purpose: str) -> None:
    key = (seed, get_rank(), iteration, ("data", "step").index(purpose))
    for_random, for_numpy, for_torch = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(for_random))
    np.random.seed(for_numpy)
    torch.manual_seed(int(for_torch))
