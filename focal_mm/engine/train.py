"""``tools/train.py``: parse, load, adapt, join, check, train."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint

from focal_mm.engine import options
from focal_mm.engine.checks import (
    check_train,
    checkpoints_of_training,
    explained,
    rehearse,
    replace_unreadable,
    run,
)
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.launch import check_together, join, leave
from focal_mm.engine.libraries import LIBRARIES


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
        notes += check_together(lambda: check_train(cfg, not args.no_data_check))
        replace_unreadable(cfg)
        if args.check:
            rehearse(cfg, "train")
        else:
            runner = run(cfg, notes, "train")
            runner.logger.info(
                f"Finished: checkpoints and logs are in {runner.work_dir}"
            )
        leave()


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
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="resume from a checkpoint, by default the latest in the work dir",
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
    notes = _apply_resume(cfg, args.resume) if args.resume else []
    library = LIBRARIES.get(cfg.get("default_scope"))
    pretrained = checkpoints_of_training(cfg) or cfg.model.get("pretrained")
    if library and library.dense and "backbone" in cfg.model and not pretrained:
        notes.append(
            "the backbone trains from scratch: for pretrained weights pass "
            "--cfg-options model.backbone.init_cfg.checkpoint=PATH"
        )
    return notes


def _apply_resume(cfg: Config, resume: str) -> list[str]:
    cfg.resume = True
    if resume != "auto":
        cfg.load_from = resume
        return []
    folder = Path(cfg.work_dir)
    if not (folder / "last_checkpoint").is_file():
        # load_from stays: a job that always says --resume may start by it.
        cfg.resume = False
        return [f"--resume: no checkpoint in {cfg.work_dir}, starting anew"]
    latest = Path(find_latest_checkpoint(cfg.work_dir))
    # The folder may have been moved since.
    moved = folder / latest.name
    cfg.load_from = str(moved if moved.exists() else latest)
    return []
