"""What the measuring command lines share: arguments, the machine, tables, JSON."""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import distributions
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.measure import DTYPES, Precision
from benchmarks.models import KEY_SELECTIONS, SETTINGS, Shape
from focal_mm.engine.config import describe
from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing
from focal_mm.engine.options import Parser
from focal_mm.models.presets import ARCHS
from focal_mm.ops import BACKENDS

Columns = Mapping[str, Callable[[dict[str, Any]], str]]
Result = TypeVar("Result")

# Images that make a batch of 224x224: as many pixels are taken of other sizes.
_BATCH_AT_224 = {"cpu": 8, "cuda": 64}
# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def parse_size(text: str) -> Shape:
    """Read '448' or '800x1333' as (height, width), as argparse's ``type``."""
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() and int(side) for side in sides):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a size such as 448 or 800x1333 (height x width)"
        )
    return int(sides[0]), int(sides[-1])


def make_parser(
    program: str, description: str, sizes: Sequence[str], rounds: int
) -> argparse.ArgumentParser:
    """What to measure, where, how precisely, how often, and what to write.

    Args:
        program: As it is started.
        description: For ``--help``.
        sizes: Default of ``--sizes``.
        rounds: Default of ``--rounds``.
    """
    parser = Parser(
        prog=program,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--sizes",
        nargs="+",
        type=parse_size,
        default=[parse_size(size) for size in sizes],
        metavar="SIZE",
        help=f"sides of squares, or HEIGHTxWIDTH (default: {' '.join(sizes)})",
    )
    add(
        "--batch",
        nargs="+",
        type=int,
        metavar="N",
        help="images, one number for all sizes or one for each (default: as many "
        "pixels as 8 images of 224, with CUDA 64; at least one image)",
    )
    add("--arch", choices=sorted(ARCHS), default="tiny", help="size of the models")
    add(
        "--settings",
        choices=tuple(SETTINGS),
        help="focal regions (default: of squares imagenet, else detection)",
    )
    add(
        "--key-selection",
        nargs="+",
        choices=tuple(KEY_SELECTIONS),
        default=["window"],
        help="topk is Focal-fast (default: window)",
    )
    names = dict.fromkeys(one.name for family in BACKENDS.values() for one in family)
    add(
        "--backends",
        nargs="+",
        choices=("auto", *names),
        metavar="NAME",
        help=f"of auto, {', '.join(names)} (default: all that can run here)",
    )
    devices = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    add("--device", choices=devices, default=devices[0])
    add("--dtype", choices=DTYPES, default="float32")
    add("--threads", type=int, metavar="N", help="CPU threads")
    add(
        "--rounds",
        type=int,
        default=rounds,
        metavar="N",
        help="turns of each candidate (default: %(default)s)",
    )
    add("--json", type=Path, metavar="FILE", help="write FILE, or replace it")
    return parser


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what is freed; returns whether it does.

    By default each large temporary comes as fresh pages from the system, which takes
    longer than many operations on it, and of some models more than of others.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda *setting: 0)
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def prepare(args: argparse.Namespace) -> tuple[Precision, list[int], dict[str, Any]]:
    """Set threads and allocator.

    Args:
        args: What :func:`make_parser` has read.

    Returns:
        Where and how precisely to measure, the batch of each size, and what every
        JSON document begins with.

    Raises:
        UserError: If there is not one batch for each size, or a number is below 1.
    """
    pixels = _BATCH_AT_224[args.device] * 224**2
    batches = args.batch or [max(1, pixels // math.prod(size)) for size in args.sizes]
    if len(batches) == 1:
        batches = batches * len(args.sizes)
    if len(batches) != len(args.sizes):
        raise UserError(f"--batch: {len(batches)} numbers for {len(args.sizes)} sizes")
    if min(args.rounds, *batches) < 1:
        raise UserError("--rounds and --batch must be at least 1")
    if args.threads:
        torch.set_num_threads(args.threads)
    machine = f"{torch.backends.cpu.get_cpu_capability()} CPU"
    if args.device == "cuda":
        machine = torch.cuda.get_device_name()
    document = {
        "date": datetime.datetime.now().isoformat(timespec="seconds"),
        "machine": f"{machine}, {torch.get_num_threads()} threads",
        "allocator": "keeps freed memory" if keep_freed_memory() else "as it is",
        "versions": {item.name: item.version for item in distributions()},
        "arguments": vars(args),
        "skipped": {},
        "results": [],
    }
    precision = Precision(torch.device(args.device), getattr(torch, args.dtype))
    return precision, batches, document


def attempt(
    document: dict[str, Any], what: str, action: Callable[[], Result]
) -> Result | None:
    """Do what may not work on this machine; if so, say why, and go on.

    The document's 'skipped' keeps the reason of ``what``. A UserError, a mismatch above
    all, is raised.
    """
    try:
        return action()
    except UserError:
        raise
    except Exception as error:
        # Whatever kernels, compilers and libraries raise, and too little memory.
        document["skipped"][what] = describe(error)
        return None


def track(items: Sequence[Any]) -> Iterator[Any]:
    """Go through what is measured; titles and a bar with the time left go to stderr.

    The bar is drawn between items only, so that nothing runs beside them.
    """
    with Progress(
        console=Console(stderr=True), auto_refresh=False, speed_estimate_period=3600
    ) as bar:
        for item in bar.track(items):
            bar.print(item.title)
            yield item


TIME_COLUMNS: Columns = {
    "median\nms": lambda row: f"{row['median_seconds'] * 1e3:.2f}",
    "spread": lambda row: f"{row['spread']:.0%}",
}


def report(document: dict[str, Any], columns: Columns) -> None:
    """Print a table of the document's results, and write what ``--json`` names.

    Args:
        document: As JSON has it; rows of the same title are a section.
        columns: By heading, the text of a row.

    Raises:
        UserError: If there are no results, or the document cannot be written.
    """
    if not document["results"]:
        reasons = "; ".join(f"{k}: {why}" for k, why in document["skipped"].items())
        raise UserError(f"nothing was measured: {reasons}")
    table = Table(
        *columns,
        title=f"{document['machine']}, {document['arguments']['dtype']}, torch "
        f"{torch.__version__}, {document['date']}; allocator: {document['allocator']}",
        caption="spread: interquartile range over median of the alternating rounds",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for title, rows in groupby(document["results"], itemgetter("title")):
        table.add_section()
        table.add_row(f"[bold]{title}")
        for row in rows:
            table.add_row(*(show(row) for show in columns.values()))
    # A table is not folded in a log.
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    for what, reason in document["skipped"].items():
        print(f"{what} is not measured: {reason}")
    path = document["arguments"]["json"]
    if path:
        with replacing(path) as partial:
            partial.write_text(json.dumps(document, indent=1, default=str) + "\n")
