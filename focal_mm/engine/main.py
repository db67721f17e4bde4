"""What ``tools/train.py`` and ``tools/test.py`` do."""

import logging
import os
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence

from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from focal_mm.checkpoint import CheckpointError, read_checkpoint
from focal_mm.checkpoint.read import reads_training_state
from focal_mm.engine import cli, preflight
from focal_mm.engine.errors import UserError
from focal_mm.engine.launch import (
    check_devices,
    local_processes,
    set_up_processes,
    tear_down_processes,
)
from focal_mm.engine.loaders import use_safe_loaders


def train(argv: Sequence[str] | None = None) -> int:
    """Train a model: the command line ``tools/train.py``.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        The exit code. What the user can put right is one line on standard error.
    """
    args = cli.train_parser().parse_args(argv)
    return _guarded("train.py", lambda: _train(args))


def test(argv: Sequence[str] | None = None) -> int:
    """Test a model: the command line ``tools/test.py``.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        The exit code. What the user can put right is one line on standard error.
    """
    args = cli.test_parser().parse_args(argv)
    return _guarded("test.py", lambda: _test(args))


def _train(args: Namespace) -> None:
    cfg = cli.load_config(args)
    notes = cli.apply_train_args(cfg, args)
    preflight.check_train(cfg)
    if args.check:
        _finish_check(cfg, preflight.checkpoints_of_training(cfg))
        return
    runner = _build(cfg, notes)
    runner.train()
    runner.logger.info(f"Finished: checkpoints and logs are in {runner.work_dir}")


def _test(args: Namespace) -> None:
    cfg = cli.load_config(args)
    notes = cli.apply_test_args(cfg, args)
    preflight.check_test(cfg)
    if args.check:
        _finish_check(cfg, [("checkpoint", cfg.load_from)])
        return
    runner = _build(cfg, notes)
    runner.test()
    runner.logger.info(f"Finished: metrics and logs are in {runner.log_dir}")


def _finish_check(cfg: Config, checkpoints: list[tuple[str, str]]) -> None:
    """The slower checks, which a run itself does when it comes to it."""
    check_devices(cfg.launcher, local_processes())
    for key, path in checkpoints:
        if reads_training_state() and not preflight.is_remote(path):
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                raise UserError(f"{key}: {error}") from None
    print("arguments, config, data and checkpoints are in order")


def _build(cfg: Config, notes: list[str]) -> Runner:
    notes = notes + use_safe_loaders()
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the work dir: {error}") from None
    notes = notes + set_up_processes(cfg)
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    for note in notes:
        runner.logger.warning(note)
    return runner


def _guarded(program: str, action: Callable[[], None]) -> int:
    try:
        action()
    except (UserError, CheckpointError) as error:
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        logging.shutdown()
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            print(f"{program}: stopped by the user", file=sys.stderr)
        return 130
    tear_down_processes()
    return 0
