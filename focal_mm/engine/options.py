"""Pieces of the command lines' argument parsers."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config, DictAction

from focal_mm.engine.errors import say


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, also of several processes."""

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: {message} (--help shows all options)")
        self.exit(2)


class _CfgOptions(DictAction):
    """``KEY=VALUE`` pairs; a malformed one is an argument error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            raise argparse.ArgumentError(
                self, f"{values} are not of the form key.subkey=value: {error}"
            ) from None


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options KEY=VALUE ...``, parsed into a dict, to a parser."""
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_CfgOptions,
        metavar="KEY=VALUE",
        help="change settings of the config: model.backbone.drop_path_rate=0.1; "
        'lists as key="[a,b]", tuples as key="(a,b)"',
    )


def add_allow_partial(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-partial`` to a parser."""
    parser.add_argument(
        "--allow-partial",
        action="store_true",
        help="load what fits of a checkpoint that lacks weights of the model or has "
        "other shapes; the rest stays random, and the log says what",
    )


def add_run_options(parser: argparse.ArgumentParser, written: str) -> None:
    """Add what training and testing have in common to a parser.

    Args:
        parser: Of ``train.py`` or ``test.py``.
        written: What goes into the work dir.
    """
    parser.add_argument(
        "--work-dir", help=f"folder for {written} (default: work_dirs/CONFIG_NAME)"
    )
    add_cfg_options(parser)
    add_allow_partial(parser)
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm"),
        default="none",
        help="how the processes were started",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="build and load everything up to the first step, and stop",
    )
    parser.add_argument(
        "--no-data-check",
        action="store_true",
        help="do not read annotations and headers of images before the start",
    )
    parser.add_argument(
        "--traceback",
        action="store_true",
        help="show the traceback of an error; the log file has it in any case",
    )
    # torch.distributed.launch passes it and sets the variable too.
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)


def apply_run_options(cfg: Config, args: argparse.Namespace) -> None:
    """Put the launcher and the work dir into a config."""
    cfg.launcher = args.launcher
    if args.allow_partial:
        cfg.allow_partial = True
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = f"./work_dirs/{Path(args.config).stem}"
