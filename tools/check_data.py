"""Check the data of a config: ``python tools/check_data.py CONFIG``; more by --help."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from focal_mm.engine.checks.data import Checked, check_data, raise_errors, write_fixed
from focal_mm.engine.checks.explain import explained
from focal_mm.engine.checks.preflight import check_library, check_paths, local_datasets
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.options import Parser, add_cfg_options


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 1 if there are errors."""
    parser = Parser(
        prog="check_data.py",
        description="Check annotations, and headers and ends of all images, of the "
        "data sets of a config.",
    )
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--splits",
        nargs="+",
        choices=("train", "val", "test"),
        default=("train", "val", "test"),
        help="which to check (default: all that the config has)",
    )
    parser.add_argument(
        "--fix",
        type=Path,
        metavar="DIR",
        help="write copies of annotation files (COCO) into DIR, without what is wrong",
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show the traceback of an error"
    )
    add_cfg_options(parser)
    args = parser.parse_args(argv)
    return run_guarded(parser.prog, lambda: _run(args), show_traceback=args.traceback)


def _run(args) -> None:
    cfg = load_config(args.config, args.cfg_options)
    with explained(cfg):
        check_library(cfg)
        check_paths(cfg, args.splits)
        checked = check_data(cfg, local_datasets(cfg, args.splits))
    if not checked:
        raise UserError(f"{args.config} has no data sets on a disk")
    Console().print(_table(checked))
    if args.fix is None:
        raise_errors(checked)
        return
    written = write_fixed(checked, args.fix)
    for key, path in written.items():
        print(f"use it by --cfg-options {key}.ann_file={path.resolve()}")
    # A metric that reads the file itself must read the same.
    raise_errors(one.unfixed() for one in checked)


def _table(checked: Sequence[Checked]) -> Table:
    table = Table("data set", "what", "how many", "effect", "which", title="Data")
    for one in checked:
        rows = one.rows() or [("in order", 0, False, "")]
        for what, number, is_error, which in rows:
            effect = "error" if is_error else "left out" if number else ""
            table.add_row(one.key, what, str(number) if number else "", effect, which)
    return table


if __name__ == "__main__":
    sys.exit(main())
