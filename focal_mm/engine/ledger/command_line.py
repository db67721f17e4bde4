"""``tools/reproduce.py``: list, run, status, report, test-dev."""

import argparse
import os
import subprocess
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from focal_mm.engine import options
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.files import replacing
from focal_mm.engine.ledger.commands import Launcher
from focal_mm.engine.ledger.comparison import RowResult, compare
from focal_mm.engine.ledger.record import record
from focal_mm.engine.ledger.report import (
    COLUMNS,
    SMOKE_WARNING,
    cells,
    to_json,
    write_report,
)
from focal_mm.engine.ledger.rows import Row, read_recipe, read_rows, select
from focal_mm.engine.ledger.runner import Plan, Runner, commands_of, make_plan
from focal_mm.engine.ledger.runs import run_of, runs_on_disk
from focal_mm.engine.ledger.smoke import make_smoke_rows, smoke_row
from focal_mm.engine.ledger.test_dev import pack, test_dev_command
from focal_mm.engine.lock import hold

PROGRAM = "reproduce.py"
SMOKE = "smoke"
"""Folder in the work dirs of all that ``--smoke`` does."""


def main(root: Path, argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code.

    Args:
        root: Holds ``model-index.yml``, ``configs/`` and ``tools/``.
        argv: Its arguments, by default those of the process.
    """
    args = _parser().parse_args(argv)
    args.root = root
    stopped = "stopped; the same command goes on from here"
    try:
        code = run_guarded(PROGRAM, lambda: args.run(args), stopped)
        sys.stdout.flush()
    except BrokenPipeError:
        # Who reads it, head for one, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return code


def _parser() -> argparse.ArgumentParser:
    parser = options.Parser(
        prog=PROGRAM,
        description="From a table of the paper to a measured one.",
        epilog="A TABLE is written table3 or arxiv5, a ROW is the name of its config.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, action, what: str, names: str = "*") -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=what, description=what)
        sub.set_defaults(run=action)
        sub.add_argument(
            "names", nargs=names, metavar="TABLE|ROW", help="rows or whole tables"
        )
        sub.add_argument(
            "--work-dirs",
            type=Path,
            default=Path("work_dirs"),
            metavar="DIR",
            help="folder of the rows' work dirs (default: %(default)s)",
        )
        sub.add_argument(
            "--smoke",
            action="store_true",
            help="the rows on toy data for a few steps, in WORK_DIRS/smoke",
        )
        return sub

    add("list", _list, "show rows, the paper's figures, and what they need")
    run = add("run", _run, "train and test what is not done", "+")
    _add_launch_options(run)
    run.add_argument(
        "--seeds", type=_positive, default=1, metavar="K", help="runs of each row"
    )
    run.add_argument("--amp", action="store_true", help="mixed precision training")
    add("status", _status, "show how far rows are")
    report = add("report", _report, "compare measured figures with the paper's")
    report.add_argument(
        "--out", type=Path, metavar="DIR", help="default: WORK_DIRS/report"
    )
    report.add_argument("--json", type=Path, metavar="FILE", help="figures as JSON")
    report.add_argument(
        "--record",
        action="store_true",
        help="write measured figures into the metafiles",
    )
    test_dev = add("test-dev", _test_dev, "make the files for COCO's server", "+")
    _add_launch_options(test_dev)
    return parser


def _add_launch_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gpus",
        type=_positive,
        metavar="N",
        help="processes of a run (default: as many as there are GPUs, one without, and "
        "with Slurm as many as the recipe has)",
    )
    parser.add_argument("--slurm", metavar="PARTITION", help="start by Slurm")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands, start nothing"
    )
    options.add_cfg_options(parser)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


def _rows(args: Namespace) -> list[Row]:
    """The chosen rows, with the configs and work dirs that the arguments mean."""
    rows = select(read_rows(args.root), args.names)
    if args.smoke:
        args.work_dirs /= SMOKE
        rows = [smoke_row(row, args.work_dirs) for row in rows]
        rows = [row for row in rows if row.config.is_file()]
    return rows


def _list(args: Namespace) -> None:
    columns = ("row", "tables", "paper", "starts from", "batch", "GPUs", "length")
    lines = []
    for row in select(read_rows(args.root), args.names):
        recipe = read_recipe(row.config)
        unit = {"epoch": "epochs", "iter": "iterations"}[recipe.unit]
        figures = ", ".join(f"{f.metric} {f.value}" for f in row.compared)
        lines.append(
            (
                row.name,
                ", ".join(sorted(row.tables)),
                figures,
                recipe.pretraining or "",
                recipe.base_batch_size,
                recipe.gpus,
                f"{recipe.length} {unit}",
            )
        )
    _show(columns, lines)


def _run(args: Namespace) -> int:
    plan, launcher = _plan(args), _launcher(args)
    if args.dry_run:
        for run in plan.runs.values():
            for command in commands_of(plan, run, launcher):
                print(command)
        return 0
    failed = Runner(plan, launcher, commit_of(args.root)).run()
    done = len(plan.runs) - len(failed)
    print(f"{done} of {len(plan.runs)} runs are done")
    if args.smoke:
        rows = list(dict.fromkeys(run.row for run in plan.runs.values()))
        _write_report(compare(rows, args.work_dirs), args.work_dirs / "report")
    for name, reason in failed.items():
        print(f"{PROGRAM}: {name}: {reason}", file=sys.stderr)
    return 1 if failed else 0


def _plan(args: Namespace) -> Plan:
    known = read_rows(args.root)
    rows = select(known, args.names)
    if not args.smoke:
        return make_plan(rows, known, args.seeds, args.work_dirs)
    args.work_dirs /= SMOKE

    def prepare(rows: Sequence[Row]) -> list[Row]:
        return make_smoke_rows(rows, args.root, args.work_dirs)

    return make_plan(rows, known, args.seeds, args.work_dirs, prepare)


def _launcher(args: Namespace) -> Launcher:
    gpus = args.gpus
    if gpus is None and args.smoke:
        gpus = 1
    elif gpus is None and args.slurm is None:
        gpus = max(1, torch.cuda.device_count())
    settings = [f"{key}={value}" for key, value in (args.cfg_options or {}).items()]
    return Launcher(
        tools=args.root / "tools",
        gpus=gpus,
        partition=args.slurm,
        train_options=("--amp",) if getattr(args, "amp", False) else (),
        cfg_options=tuple(settings),
    )


def _test_dev(args: Namespace) -> None:
    launcher = _launcher(args)
    runner = Runner(Plan({}, {}), launcher, commit_of(args.root))
    try:
        for row in _rows(args):
            _test_row_on_test_dev(row, args, launcher, runner)
    finally:
        runner.end_all()


def _test_row_on_test_dev(
    row: Row, args: Namespace, launcher: Launcher, runner: Runner
) -> None:
    run, recipe = run_of(row, 0, args.work_dirs), read_recipe(row.config)
    state = run.look(recipe)
    if not args.dry_run and not state.trained:
        raise UserError(f"{row.name} is not trained yet: {state}")
    command = test_dev_command(run, recipe, state.checkpoint, launcher)
    print(command, flush=True)
    if args.dry_run:
        return
    with hold(run.lock):
        reason = runner.call(command, run)
    if reason:
        raise UserError(f"{row.name}: {reason}")
    for path in pack(run):
        print(f"for the server: {path}")


def commit_of(root: Path) -> str:
    """The commit of a repository, ``-dirty`` where files differ from it."""
    if not (root / ".git").exists():
        return "unknown"
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"


def _status(args: Namespace) -> None:
    lines = []
    for row in _rows(args):
        runs = runs_on_disk(row, args.work_dirs) or [run_of(row, 0, args.work_dirs)]
        for run in runs:
            lines.append((run.name, str(run.look(read_recipe(row.config)))))
    _show(("run", "state"), lines)


def _report(args: Namespace) -> None:
    results = compare(_rows(args), args.work_dirs)
    if not results:
        raise UserError(f"there is nothing to report in {args.work_dirs}")
    _write_report(results, args.out or args.work_dirs / "report")
    if args.json:
        with replacing(args.json) as partial:
            partial.write_text(to_json(results), encoding="utf-8")
    if args.record:
        for path in map(os.path.relpath, record(results)):
            folder = os.path.dirname(path)
            print(f"{path}: recorded; now python tools/model_zoo.py {folder}")


def _write_report(results: Sequence[RowResult], out: Path) -> None:
    """Show the measured figures and what must be known of them; write the rest."""
    lines = [
        [cell.text for cell in cells(result, comparison)]
        for result in results
        for comparison in result.comparisons
        if comparison.mean is not None
    ]
    if any(result.smoke for result in results):
        print(SMOKE_WARNING)
    _show(COLUMNS, lines)
    for result in results:
        for state in result.states:
            for note in result.notes(state):
                print(f"{state.run.name}: {note}")
    write_report(results, out)
    print(f"{out}/report.html, report.md and plots/ are written")


def _show(columns: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    table = Table(*columns, box=None, pad_edge=False)
    for line in lines:
        table.add_row(*(escape(str(cell)) for cell in line))
    # Not folded in a log.
    Console(width=None if sys.stdout.isatty() else 240).print(table)
