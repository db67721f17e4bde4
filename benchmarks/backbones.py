"""Speed and memory of Focal Transformers against Swin's and each other."""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import common
from benchmarks.checks import check_candidate, check_compiled
from benchmarks.measure import MODES, Precision, Step, run_rounds, summary
from benchmarks.models import (
    REFERENCE,
    SWINS,
    Candidate,
    Shape,
    focal_candidates,
    settings_for,
    swin_candidate,
)
from benchmarks.plot import draw
from focal_mm.engine.errors import run_guarded

PROGRAM = "python -m benchmarks.backbones"
DESCRIPTION = """\
Speed and memory of Focal Transformers against Swin Transformers of the same size, and
of the attention backends against each other, in alternating rounds of one process.

Before it is measured, every backend is compared with 'naive': same weights, outputs and
in training all gradients, in float32 and in --dtype. Where one differs, nothing is
reported and the exit code is 1.

In half precision inference and training run under autocast; a step of training is
forward, backward and AdamW. Memory is the most that PyTorch's allocator holds, without
tables and masks that are cached by size. docs/performance.md has commands and results.
"""


@dataclass(frozen=True)
class Cell:
    """What is compared with each other.

    Attributes:
        shape: (height, width) of the images.
        batch: Images.
        mode: 'inference' or 'training'.
        compiled: Whether models run through ``torch.compile``.
        settings: Key of :data:`~benchmarks.models.SETTINGS`.
    """

    shape: Shape
    batch: int
    mode: str
    compiled: bool
    settings: str

    @property
    def title(self) -> str:
        height, width = self.shape
        form = ", compiled" if self.compiled else ""
        return (
            f"{height}x{width}, batch {self.batch}, {self.mode}{form}, "
            f"focal windows of {self.settings}"
        )


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    sizes = ("224", "448", "896", "800x1333")
    parser = common.make_parser(PROGRAM, DESCRIPTION, sizes, rounds=7)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument(
        "--compile", action="store_true", help="measure torch.compile besides eager"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=("focal", *SWINS),
        default=["focal", *SWINS],
        help="ours, and whose Swin (default: all)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw time and memory against pixels"
    )
    return parser.parse_args(argv)


def find_candidates(
    args: argparse.Namespace, document: dict[str, Any]
) -> list[Candidate]:
    """The models to be measured; ``document`` keeps which Swins are skipped."""
    found = []
    for library in [name for name in SWINS if name in args.models]:
        swin = functools.partial(swin_candidate, library, args.arch)
        found.append(common.attempt(document, f"Swin ({library})", swin))
    for selection in args.key_selection if "focal" in args.models else ():
        found += focal_candidates(args.arch, args.settings, selection, args.backends)
    return [candidate for candidate in found if candidate]


def measure(
    cell: Cell,
    candidates: Sequence[Candidate],
    precision: Precision,
    rounds: int,
    document: dict[str, Any],
) -> None:
    """Check and measure what is compared in a cell; ``document`` gets the results.

    Raises:
        MismatchError: If a model computes something else than it must.
    """
    if cell.compiled:
        torch.compiler.reset()
    steps = {}
    for candidate in candidates:
        ready = functools.partial(start, cell, candidate, precision)
        step = common.attempt(document, f"{candidate.name} at {cell.title}", ready)
        if step:
            steps[candidate] = step
    peaks = {candidate: step.peak_bytes() for candidate, step in steps.items()}
    seconds = run_rounds(steps, rounds, precision.device)
    document["results"] += rows_of_cell(cell, seconds, peaks)


def start(cell: Cell, candidate: Candidate, precision: Precision) -> Step:
    """Check and build a model, and run it once: compilers and tuners are done then.

    Raises:
        MismatchError: If it computes something else than it must.
    """
    check_candidate(candidate, cell.shape, cell.mode, precision)
    images = torch.randn(cell.batch, 3, *cell.shape)
    step = Step(candidate.build(cell.shape), images, cell.mode, precision)
    if cell.compiled:
        check_compiled(candidate.name, step)
    step()
    return step


def rows_of_cell(
    cell: Cell, seconds: dict[Candidate, list[float]], peaks: dict[Candidate, int]
) -> list[dict[str, Any]]:
    """One row for each model of a cell, with its ratios to others.

    ``speed_to`` is the other's median time over the own one: above 1 is faster. The
    others are the Swins, by library, and 'naive' of the same key selection.
    """
    rows = []
    for one, values in seconds.items():
        row = {"title": cell.title, **asdict(cell), "model": one.name}
        row |= summary(values) | {"peak_bytes": peaks[one]}
        row |= {"speed_to": {}, "memory_to": {}}
        for other, others in seconds.items():
            if other.label in SWINS or (
                other.label == REFERENCE and other.key_selection == one.key_selection
            ):
                faster = summary(others)["median_seconds"] / row["median_seconds"]
                row["speed_to"][other.label] = faster
                row["memory_to"][other.label] = peaks[one] / peaks[other]
        rows.append(row)
    return rows


def columns(rows: Sequence[dict[str, Any]]) -> common.Columns:
    """Of the table, by heading."""

    def ratio(key: str, label: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: f"{row[key][label]:.2f}" if label in row[key] else ""

    found = {label for row in rows for label in row["speed_to"]}
    labels = [label for label in (*SWINS, REFERENCE) if label in found]
    return {
        "model": lambda row: f"  {row['model']}",
        **common.TIME_COLUMNS,
        "images/s": lambda row: f"{row['batch'] / row['median_seconds']:.1f}",
        **{f"speed,\n{label} = 1": ratio("speed_to", label) for label in labels},
        "MiB": lambda row: f"{row['peak_bytes'] / 2**20:.0f}",
        **{f"memory,\n{label} = 1": ratio("memory_to", label) for label in labels},
    }


def run(argv: Sequence[str] | None) -> None:
    """Measure, print, write.

    Raises:
        UserError: If something is wrong with the arguments, or a backend differs.
    """
    args = parse_args(argv)
    precision, batches, document = common.prepare(args)
    cells = [
        Cell(shape, batch, mode, compiled, args.settings or settings_for(shape))
        for shape, batch in zip(args.sizes, batches, strict=True)
        for mode in args.modes
        for compiled in (False, True)[: 1 + args.compile]
    ]
    candidates = find_candidates(args, document)
    rows = document["results"]
    try:
        for cell in common.track(cells):
            measure(cell, candidates, precision, args.rounds, document)
    except KeyboardInterrupt:
        if rows:
            common.report(document, columns(rows))
        raise
    common.report(document, columns(rows))
    if args.plot:
        draw(rows, f"{document['machine']}, {args.dtype}", args.plot)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_guarded(PROGRAM, lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
