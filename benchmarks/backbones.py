"""Speed and memory of Focal Transformers against Swin's and each other."""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks import common
from benchmarks.checks import MismatchError, check_candidates, check_compiled
from benchmarks.measure import (
    MODES,
    Precision,
    Step,
    make_images,
    make_progress,
    run_rounds,
    summary,
)
from benchmarks.models import (
    REFERENCE,
    SWINS,
    Candidate,
    Shape,
    focal_candidates,
    settings_for,
    swin_candidates,
)
from focal_mm.engine.config import describe
from focal_mm.engine.errors import run_guarded

PROGRAM = "python -m benchmarks.backbones"
DESCRIPTION = """\
Speed and memory of Focal Transformers against Swin Transformers of the same size, and
of the attention backends against each other, in alternating rounds of one process.

Before anything is measured, every backend is compared with 'naive': same weights,
outputs and in training all gradients, in float32 and in --dtype. Where one differs,
nothing is reported and the exit code is 1.

Compared are backbones that give a normed map of each stage, with stochastic depth off.
In half precision inference and training run under autocast; a step of training is
forward, backward and AdamW. Memory is the most that parameters, optimizer and a step
hold in PyTorch's allocator (of a process it is more), without tables and masks that
are cached by size. Squares use the focal regions of the paper's ImageNet models, as
does its authors' table of throughput, other sizes those of its detection models;
Focal-fast has no such regions, but 128 keys of each level.

examples:
  python -m benchmarks.backbones --threads 2 --json cpu.json
  python -m benchmarks.backbones --dtype bfloat16 --compile --json gpu.json
  python -m benchmarks.backbones --key-selection window topk --backends sdpa
"""
# A step of training is about three of inference.
_COST = {"inference": 1, "training": 3}


@dataclass(frozen=True)
class Cell:
    """What is compared with each other.

    Attributes:
        height, width: Of the images.
        batch: Images.
        mode: 'inference' or 'training'.
        compiled: Whether models run through ``torch.compile``.
        settings: Key of :data:`~benchmarks.models.SETTINGS`.
    """

    height: int
    width: int
    batch: int
    mode: str
    compiled: bool
    settings: str

    @property
    def shape(self) -> Shape:
        return self.height, self.width

    @property
    def title(self) -> str:
        form = ", compiled" if self.compiled else ""
        return (
            f"{self.height}x{self.width}, batch {self.batch}, {self.mode}{form}, "
            f"focal windows of {self.settings}"
        )

    @property
    def cost(self) -> float:
        """Of one step, in pixels of inference."""
        return math.prod(self.shape) * self.batch * _COST[self.mode]


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
    return parser.parse_args(argv)


def find_candidates(
    args: argparse.Namespace,
) -> tuple[list[Candidate], dict[str, str]]:
    """The models to be measured, and by name why others are skipped."""
    swins = [name for name in SWINS if name in args.models]
    found, skipped = swin_candidates(args.arch, swins)
    if "focal" in args.models:
        ours, reasons = focal_candidates(
            args.arch, args.settings, args.key_selection, args.backends
        )
        found, skipped = found + ours, skipped | reasons
    return found, skipped


def measure(
    cells: Sequence[Cell],
    args: argparse.Namespace,
    precision: Precision,
    document: dict[str, Any],
) -> None:
    """Check all backends, then measure cell after cell.

    Args:
        cells: What is measured.
        args: The command line's.
        precision: Where and how precisely.
        document: As ``--json`` has it; filled in place, so that what is there at an
            interruption can be reported.

    Raises:
        MismatchError: If a model computes something else than it must.
    """
    candidates, document["skipped"] = find_candidates(args)
    with make_progress() as bar:
        for name, reason in document["skipped"].items():
            bar.print(f"{name} is skipped: {reason}", markup=False, soft_wrap=True)
        for shape, mode in dict.fromkeys((cell.shape, cell.mode) for cell in cells):
            part = f"{shape[0]}x{shape[1]}, {mode}"
            bar.print(f"checking {part}")
            checks, failed = check_candidates(candidates, shape, mode, precision)
            document["checks"][part] = checks
            document["skipped"] |= failed
            candidates = [one for one in candidates if one.name not in failed]
        cost = sum(cell.cost for cell in cells) * len(candidates) * args.rounds
        task = bar.add_task("", total=cost)
        for cell in cells:
            bar.print(cell.title)
            bar.update(task, description=cell.title, refresh=True)
            if cell.compiled:
                torch.compiler.reset()
            steps = {}
            for candidate in candidates:
                try:
                    steps[candidate] = start(cell, candidate, precision)
                except MismatchError:
                    raise
                except Exception as error:
                    # Whatever kernels and compilers raise, and too little memory.
                    name = f"{candidate.name} at {cell.title}"
                    document["skipped"][name] = describe(error)
            peaks = {candidate: step.peak_bytes() for candidate, step in steps.items()}
            cost = cell.cost * len(candidates) / max(1, len(steps))
            seconds = run_rounds(
                steps,
                args.rounds,
                precision.device,
                on_turn=lambda cost=cost: bar.update(task, advance=cost, refresh=True),
            )
            document["results"] += rows_of_cell(cell, seconds, peaks)
    document["complete"] = True


def start(cell: Cell, candidate: Candidate, precision: Precision) -> Step:
    """Build a model and run it once: compilers and tuners of kernels are done then.

    Raises:
        MismatchError: If it computes something else when it is compiled.
    """
    images = make_images(cell.shape, cell.batch)
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
    times = {candidate: summary(values) for candidate, values in seconds.items()}
    rows = []
    for one, time in times.items():
        others = {
            other.label: other
            for other in times
            if not other.key_selection
            or (other.key_selection, other.label) == (one.key_selection, REFERENCE)
        }
        rows.append(
            {
                "title": cell.title,
                **asdict(cell),
                "model": one.name,
                "key_selection": one.key_selection,
                "label": one.label,
                **time,
                "peak_bytes": peaks[one],
                "speed_to": {
                    label: times[other]["median_seconds"] / time["median_seconds"]
                    for label, other in others.items()
                },
                "memory_to": {
                    label: peaks[one] / peaks[other] for label, other in others.items()
                },
            }
        )
    return rows


def columns(rows: Sequence[dict[str, Any]]) -> common.Columns:
    """Of the table, by heading."""

    def ratio(key: str, label: str) -> Callable[[dict[str, Any]], str]:
        return lambda row: f"{row[key][label]:.2f}" if label in row[key] else ""

    labels = [
        label
        for label in (*SWINS, REFERENCE)
        if any(label in row["speed_to"] for row in rows)
    ]
    return {
        "model": lambda row: f"  {row['model']}",
        **common.TIME_COLUMNS,
        "images/s": lambda row: f"{row['batch'] / row['median_seconds']:.1f}",
        **{f"speed,\n{label} = 1": ratio("speed_to", label) for label in labels},
        "MiB": lambda row: f"{row['peak_bytes'] / 2**20:.0f}",
        **{f"memory,\n{label} = 1": ratio("memory_to", label) for label in labels},
    }


def run(argv: Sequence[str]) -> None:
    """Measure, print, write.

    Raises:
        UserError: If something is wrong with the arguments, or a backend differs.
    """
    args = parse_args(argv)
    precision, batches, document = common.prepare(args, PROGRAM, argv)
    document |= {"complete": False, "checks": {}}
    cells = [
        Cell(*shape, batch, mode, compiled, args.settings or settings_for(shape))
        for shape, batch in zip(args.sizes, batches, strict=True)
        for mode in dict.fromkeys(args.modes)
        for compiled in (False, True)[: 1 + args.compile]
    ]
    stopped = None
    try:
        # The libraries print when they are imported.
        with contextlib.redirect_stdout(sys.stderr):
            measure(cells, args, precision, document)
    except KeyboardInterrupt as error:
        stopped = error
    if document["results"] or not stopped:
        common.report(document, columns(document["results"]), args.json)
    if stopped:
        raise stopped


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    return run_guarded(PROGRAM, lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())
