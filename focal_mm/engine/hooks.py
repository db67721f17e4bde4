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

    def before_train_epoch(self, runner: Any) -> None:
        """Seeds what loading the coming iteration's data draws."""
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


def _seed_all(seed: int, iteration: int, purpose: str) -> None:
    key = (seed, get_rank(), iteration, ("data", "step").index(purpose))
    for_random, for_numpy, for_torch = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(for_random))
    np.random.seed(for_numpy)
    torch.manual_seed(int(for_torch))
