"""A run up to its first step: what fails before is one line, not the end of a log."""

import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from typing import Any

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from focal_mm.engine.checks.unreadable import replace_unreadable
from focal_mm.engine.errors import speaks
from focal_mm.engine.launch import build_runner


class _Begun(BaseException):
    """A rehearsal has come to its end."""


class _FirstStepHook(Hook):
    """Calls a function when all is built and loaded, the first batch too."""

    priority = "VERY_LOW"

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def before_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        self._function()

    def before_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None
    ) -> None:
        self._function()


def run(cfg: Config, notes: list[str], mode: str) -> Runner:
    """Build a runner and run it; the console shows nothing before the first step.

    Then it shows what was held back. The log file has all of it in any case.

    Args:
        cfg: Checked config.
        notes: Lines for its log.
        mode: "train" or "test".
    """
    with _held_console() as open_console:
        return _run(cfg, notes, mode, open_console)


def rehearse(cfg: Config, mode: str) -> None:
    """Build and load what a run does, up to its first step, and leave nothing behind.

    Args:
        cfg: Checked config; it is not changed.
        mode: "train" or "test".
    """

    def end() -> None:
        raise _Begun

    cfg = deepcopy(cfg)
    if "vis_backends" in (cfg.get("visualizer") or {}):
        # Others may write elsewhere than into the work dir.
        cfg.visualizer.vis_backends = [dict(type="LocalVisBackend")]
    with tempfile.TemporaryDirectory() as folder:
        cfg.work_dir = folder
        with _held_console(), suppress(_Begun):
            _run(cfg, [], mode, end)
    if speaks():
        print("arguments, config, model, data and checkpoints are in order")


def _run(
    cfg: Config, notes: list[str], mode: str, at_first_step: Callable[[], None]
) -> Runner:
    runner = build_runner(cfg, notes)
    if mode == "train":
        replace_unreadable(runner)
    runner.register_hook(_FirstStepHook(at_first_step))
    getattr(runner, mode)()
    return runner


@contextmanager
def _held_console() -> Iterator[Callable[[], None]]:
    """Hold back what is printed and logged; yields what shows it and all that follows.

    What nobody shows is dropped.
    """
    held = {"stdout": io.StringIO(), "stderr": io.StringIO()}
    real = {name: getattr(sys, name) for name in held}

    def let_go() -> None:
        for handler in MMLogger.get_current_instance().handlers:
            if getattr(handler, "stream", None) is held["stdout"]:
                handler.setStream(real["stdout"])

    def show() -> None:
        for name, text in held.items():
            if getattr(sys, name) is text:
                setattr(sys, name, real[name])
                real[name].write(text.getvalue())
        let_go()

    with redirect_stdout(held["stdout"]), redirect_stderr(held["stderr"]):
        try:
            yield show
        finally:
            let_go()
