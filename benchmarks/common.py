"""What the measuring command lines share: arguments, the machine, tables, JSON."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import datetime
import json
import math
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import DTYPES, Precision
from benchmarks.models import KEY_SELECTIONS, SETTINGS, Shape
from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing
from focal_mm.engine.options import Parser
from focal_mm.models.presets import ARCHS
from focal_mm.version import __version__

Columns = Mapping[str, Callable[[dict[str, Any]], str]]

# Images that make a batch of 224x224: as many pixels are taken of other sizes.
_BATCH_AT_224 = {"cpu": 8, "cuda": 64}
_DISTRIBUTIONS = ("torch", "triton", "onedl-mmcv", "onedl-mmdetection", "mmdet", "timm")
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


def parse_positive(text: str) -> int:
    """Read a whole number from 1 up, as argparse's ``type``."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


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
        type=parse_positive,
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
    add(
        "--backends",
        nargs="+",
        metavar="NAME",
        help="attention backends, also 'auto' (default: all that can run here)",
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    add("--device", choices=("cpu", "cuda"), default=device)
    add("--dtype", choices=tuple(DTYPES), default="float32")
    add("--threads", type=parse_positive, metavar="N", help="CPU threads")
    add(
        "--rounds",
        type=parse_positive,
        default=rounds,
        metavar="N",
        help="turns of each candidate (default: %(default)s)",
    )
    add(
        "--default-allocator",
        action="store_true",
        help="leave glibc's allocator as it is; else it keeps what is freed",
    )
    add("--json", type=Path, metavar="FILE", help="write FILE, or replace it")
    return parser


def keep_freed_memory() -> bool:
    """Let glibc's allocator keep what is freed; returns whether it does.

    By default each large temporary comes as fresh pages from the system, which takes
    longer than many operations on it, and of some models more than of others.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))


def prepare(
    args: argparse.Namespace, program: str, argv: Sequence[str]
) -> tuple[Precision, list[int], dict[str, Any]]:
    """Set threads and allocator.

    Args:
        args: What :func:`make_parser` has read.
        program: As it was started.
        argv: Its arguments.

    Returns:
        Where and how precisely to measure, the batch of each size, and what every
        JSON document begins with.

    Raises:
        UserError: If there is no CUDA device, or not one batch for each size.
    """
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device")
    pixels = _BATCH_AT_224[args.device] * 224**2
    batches = args.batch or [max(1, pixels // math.prod(size)) for size in args.sizes]
    if len(batches) == 1:
        batches *= len(args.sizes)
    if len(batches) != len(args.sizes):
        raise UserError(f"--batch: {len(batches)} numbers for {len(args.sizes)} sizes")
    if args.threads:
        torch.set_num_threads(args.threads)
    keeps = not args.default_allocator and keep_freed_memory()
    now = datetime.datetime.now(datetime.timezone.utc)
    versions = {"python": platform.python_version(), "focal_mm": __version__}
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    document = {
        "schema": program,
        "date": now.isoformat(timespec="seconds"),
        "command": shlex.join([*program.split(), *argv]),
        "machine": _machine(args.device),
        "versions": versions,
        "allocator": "keeps freed memory" if keeps else "as it is",
        "arch": args.arch,
        "dtype": args.dtype,
        "rounds": args.rounds,
        "skipped": {},
        "results": [],
    }
    return Precision(torch.device(args.device), DTYPES[args.dtype]), batches, document


def _machine(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {capability}, {torch.get_num_threads()} threads"


TIME_COLUMNS: Columns = {
    "median\nms": lambda row: f"{row['median_seconds'] * 1e3:.2f}",
    "spread": lambda row: f"{row['spread']:.0%}",
}


def report(document: dict[str, Any], columns: Columns, path: Path | None) -> None:
    """Print a table of the document's results, and write the document.

    Args:
        document: As ``--json`` has it; rows of the same title are a section.
        columns: By heading, the text of a row.
        path: Where to write it, if anywhere.

    Raises:
        UserError: If there are no results, or the document cannot be written.
    """
    if not document["results"]:
        reasons = "; ".join(f"{k}: {why}" for k, why in document["skipped"].items())
        raise UserError(f"nothing was measured: {reasons or 'stopped too early'}")
    table = Table(*columns)
    for column in table.columns[1:]:
        column.justify = "right"
    previous = None
    for row in document["results"]:
        if row["title"] != previous:
            previous = row["title"]
            table.add_section()
            table.add_row(f"[bold]{previous}")
        table.add_row(*(show(row) for show in columns.values()))
    console = Console(highlight=False)
    if not console.is_terminal:
        # A table is not folded in a log.
        console = Console(highlight=False, width=140)

    def say(text: str) -> None:
        console.print(text, markup=False, soft_wrap=True)

    say(
        f"{document['machine']}, {document['dtype']}, torch "
        f"{document['versions']['torch']}, {document['date']}; allocator: "
        f"{document['allocator']}"
    )
    console.print(table)
    say(
        f"Medians of {document['rounds']} alternating rounds; spread: interquartile "
        "range over median."
    )
    for name, reason in document["skipped"].items():
        say(f"{name} is not measured: {reason}")
    if path:
        write_json(path, document)
        say(f"Figures of every round: {path}")


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document; where that fails, what was there before stays.

    Raises:
        UserError: If it cannot be written.
    """
    with replacing(path) as partial:
        partial.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
