"""A hook by which a training meets its end where a test wants it."""

import os
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class SignalHook(Hook):
    """Sends a process of a run a signal after an iteration, unless it was restarted."""

    def __init__(self, number: int, iteration: int, rank: int = 0) -> None:
        self.number, self.iteration, self.rank = number, iteration, rank

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        is_first = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
        if (runner.iter + 1, get_rank()) == (self.iteration, self.rank) and is_first:
            os.kill(os.getpid(), self.number)
