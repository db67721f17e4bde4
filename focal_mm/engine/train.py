"""``tools/train.py``: parse, load, adapt, join, check, train."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import is_main_process

from focal_mm.engine import options
from focal_mm.engine.checks import (
    check_train,
    checkpoints_of_training,
    explained,
    rehearse,
    run,
)
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.launch import check_together, join, leave
from focal_mm.engine.libraries import LIBRARIES
from focal_mm.engine.lock import TRAINING_LOCK, hold
from focal_mm.engine.resume import find_start, remove_checkpoints

_LENGTHS = ("max_iters", "max_epochs", "val_interval")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of training; returns the exit code."""
    args = _parser().parse_args(argv)
    return run_guarded(
        "train.py",
        lambda: _train(args),
        catch_sigterm=False,
        show_traceback=args.traceback,
    )


def _train(args: Namespace) -> None:
    cfg = load_config(args.config, args.cfg_options)
    with explained(cfg):
        notes = _adapt(cfg, args)
        notes += join(cfg)
        notes += _start(cfg, args) + _say_scratch(cfg)
        notes += check_together(lambda: check_train(cfg, not args.no_data_check))
        if args.check:
            rehearse(cfg, "train")
        else:
            with ExitStack() as stack:
                check_together(lambda: _lock(cfg.work_dir, stack))
                if args.overwrite and not cfg.resume and is_main_process():
                    remove_checkpoints(cfg)
                runner = run(cfg, notes, "train")
            runner.logger.info(
                f"Finished: checkpoints and logs are in {runner.work_dir}"
            )
        leave()


def _lock(work_dir: str, stack: ExitStack) -> None:
    """Keep other trainings out of a work dir, once for all processes of this one."""
    if is_main_process():
        stack.enter_context(hold(Path(work_dir) / TRAINING_LOCK))


def _parser() -> ArgumentParser:
    parser = options.Parser(prog="train.py", description="Train a model.")
    parser.add_argument("config", help="config file")
    options.add_run_options(parser, "logs and checkpoints")
    parser.add_argument(
        "--amp", action="store_true", help="automatic mixed precision training"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by batch size / auto_scale_lr.base_batch_size",
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="resume from a checkpoint, by default the newest whole one in the work "
        "dir; starts anew where there is none",
    )
    start.add_argument(
        "--overwrite",
        action="store_true",
        help="start anew in a work dir with checkpoints, and remove these",
    )
    return parser


def _adapt(cfg: Config, args: Namespace) -> list[str]:
    """Apply the arguments to a config; returns lines for the log."""
    options.apply_run_options(cfg, args)
    if args.amp:
        wrapper = cfg.get("optim_wrapper") or {}
        if wrapper.get("type") not in ("OptimWrapper", "AmpOptimWrapper"):
            raise UserError(
                "--amp needs optim_wrapper.type to be OptimWrapper or AmpOptimWrapper, "
                f"but the config has {wrapper.get('type')}"
            )
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise UserError("--auto-scale-lr needs auto_scale_lr.base_batch_size")
        cfg.auto_scale_lr.enable = True
    return _check_schedule(cfg)


def _start(cfg: Config, args: Namespace) -> list[str]:
    """Decide for all processes where the run starts; returns lines for the log."""
    resume = args.resume
    if resume is None and cfg.get("resume"):
        resume = cfg.get("load_from") or "auto"
    found = check_together(
        lambda: find_start(cfg, resume, args.overwrite) if is_main_process() else None
    )
    checkpoint, notes = found
    cfg.resume = checkpoint is not None
    if checkpoint is not None:
        cfg.load_from = checkpoint
    return notes


def _say_scratch(cfg: Config) -> list[str]:
    library = LIBRARIES.get(cfg.get("default_scope"))
    pretrained = checkpoints_of_training(cfg) or cfg.model.get("pretrained")
    if not library or not library.dense or "backbone" not in cfg.model or pretrained:
        return []
    return [
        "the backbone trains from scratch: for pretrained weights pass "
        "--cfg-options model.backbone.init_cfg.checkpoint=PATH"
    ]


def _check_schedule(cfg: Config) -> list[str]:
    """Check what must be a number from 1 on; returns lines for the log.

    Raises:
        UserError: If a run would do nothing or never log.
    """
    hooks = cfg.get("default_hooks") or {}
    checkpoint = hooks.get("checkpoint") or {}
    numbers = {
        f"{key}.{name}": (node or {}).get(name)
        for key, node, *names in (
            ("train_cfg", cfg.get("train_cfg"), *_LENGTHS),
            ("default_hooks.logger", hooks.get("logger"), "interval"),
            ("default_hooks.checkpoint", checkpoint, "interval"),
        )
        for name in names
    }
    for key, value in numbers.items():
        # MMEngine's CheckpointHook takes -1 for never.
        allowed = (None, -1) if "checkpoint" in key else (None,)
        if value not in allowed and not (type(value) is int and value > 0):
            raise UserError(f"{key} must be a number from 1 on, got {value!r}")
    if checkpoint.get("max_keep_ckpts") != 1:
        return []
    checkpoint["max_keep_ckpts"] = 2
    return ["max_keep_ckpts=1 removes a checkpoint before the next is whole: it is 2"]
