"""What a measurement says: ratios, the JSON document, tables."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import os
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.models import REFERENCE, SETTINGS, Absent
from benchmarks.runner import Cell, Findings, Plan, Result
from focal_mm.engine.errors import UserError
from focal_mm.version import __version__

SCHEMA = "focal_mm/benchmark/1"
# Each is known under one of the names.
_DISTRIBUTIONS = (
    ("torch",),
    ("triton",),
    ("onedl-mmengine", "mmengine"),
    ("onedl-mmcv", "mmcv"),
    ("onedl-mmdetection", "mmdet"),
    ("timm",),
)
_MIB = 2**20


def versions() -> dict[str, str]:
    """Versions of what took part."""
    found = {"python": platform.python_version(), "focal_mm": __version__}
    for names in _DISTRIBUTIONS:
        for name in names:
            with contextlib.suppress(PackageNotFoundError):
                found[name] = version(name)
                break
    return found


def machine(device: torch.device) -> dict[str, Any]:
    """The machine, and the device that computed."""
    found = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found["gpu"] = properties.name
        found["gpu_memory_bytes"] = properties.total_memory
        found["cuda"] = torch.version.cuda
    else:
        found["instructions"] = torch.backends.cpu.get_cpu_capability()
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def header(command: str, device: torch.device) -> dict[str, Any]:
    """What every document of a measurement begins with."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "date": now.isoformat(timespec="seconds"),
        "command": command,
        "machine": machine(device),
        "versions": versions(),
    }


def fastest(results: Sequence[Result], family: str) -> Result | None:
    """The contestant of a family with the shortest best time."""
    timed = [r for r in results if r.times and r.contestant.family == family]
    return min(timed, key=lambda r: r.times.best, default=None)


def rows_of_cell(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row for each result of a cell, with its ratios to the others.

    ``speed_*`` is the other's time over the own one: above 1 is faster. Swin is the
    fastest of the libraries' in this cell.
    """
    swin = fastest(results, "swin")
    naive = next(
        (r for r in results if r.times and r.contestant.backend == REFERENCE), None
    )
    rows = []
    for result in results:
        cell, times = result.cell, result.times
        row: dict[str, Any] = {
            "height": cell.shape[0],
            "width": cell.shape[1],
            "batch": cell.batch,
            "mode": cell.mode,
            "compiled": cell.compiled,
            "settings": cell.settings if result.contestant.family == "focal" else None,
            "model": result.contestant.name,
            "family": result.contestant.family,
            "backend": result.contestant.backend or None,
            "failed": result.failed or None,
            "seconds": list(times.seconds) if times else None,
            "best_seconds": times.best if times else None,
            "median_seconds": times.median if times else None,
            "peak_bytes": result.peak_bytes if times else None,
        }
        for key, other in (("swin", swin), ("naive", naive)):
            both = times is not None and other is not None
            row[f"speed_to_{key}"] = other.times.best / times.best if both else None
            row[f"median_speed_to_{key}"] = (
                other.times.median / times.median if both else None
            )
            row[f"memory_to_{key}"] = (
                result.peak_bytes / other.peak_bytes if both else None
            )
        row["swin"] = swin.contestant.name if swin else None
        rows.append(row)
    return rows


def _by_cell(results: Sequence[Result]) -> dict[Cell, list[Result]]:
    cells: dict[Cell, list[Result]] = {}
    for result in results:
        cells.setdefault(result.cell, []).append(result)
    return cells


def document(
    plan: Plan,
    findings: Findings,
    absent: Sequence[Absent],
    head: dict[str, Any],
) -> dict[str, Any]:
    """Everything, as ``--json`` writes it."""
    return {
        "schema": SCHEMA,
        **head,
        "complete": findings.complete,
        "arch": plan.arch._asdict(),
        "settings": SETTINGS,
        "dtype": str(plan.precision.dtype).removeprefix("torch."),
        "rounds": plan.rounds,
        "repeats": plan.repeats,
        "absent": {item.name: item.reason for item in absent},
        "checks": [check.to_dict() for check in findings.checks],
        "results": [
            row
            for results in _by_cell(findings.results).values()
            for row in rows_of_cell(results)
        ],
    }


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a document; where that fails, what was there before stays.

    Raises:
        UserError: If it cannot be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read what :func:`write_json` wrote of ``benchmarks/backbones.py``.

    Raises:
        UserError: If it is something else.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{path} is not of this version of benchmarks/backbones.py")
    return content


def milliseconds(seconds: float | None) -> str:
    """A time of a table's cell: three digits, at least."""
    if seconds is None:
        return ""
    value = seconds * 1e3
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value else "0"


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def report_console() -> Console:
    """A console that does not fold tables in a log."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def table(results: Sequence[Result]) -> Table:
    """One section for each cell."""
    shown = Table(
        "model",
        *("best ms", "median ms", "images/s", "speed,\nSwin = 1"),
        *("median,\nSwin = 1", "speed,\nnaive = 1", "MiB", "memory,\nSwin = 1"),
    )
    for column in shown.columns[1:]:
        column.justify = "right"
    for cell, of_cell in _by_cell(results).items():
        size, _, rest = cell.title.partition(", ")
        shown.add_row(f"[bold]{size}[/bold], {rest}")
        for row in rows_of_cell(of_cell):
            if row["failed"]:
                shown.add_row(f"  {row['model']}: not measured")
                continue
            mark = " *" if row["model"] == row["swin"] else ""
            shown.add_row(
                f"  {row['model']}{mark}",
                milliseconds(row["best_seconds"]),
                milliseconds(row["median_seconds"]),
                f"{cell.batch / row['best_seconds']:.1f}",
                _ratio(row["speed_to_swin"]),
                _ratio(row["median_speed_to_swin"]),
                _ratio(row["speed_to_naive"]),
                f"{row['peak_bytes'] / _MIB:.0f}",
                _ratio(row["memory_to_swin"]),
            )
        shown.add_section()
    return shown


def print_report(
    console: Console,
    plan: Plan,
    findings: Findings,
    absent: Sequence[Absent],
    head: dict[str, Any],
) -> None:
    """The table, and what one must know to read it."""

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    hardware = head["machine"]
    dtype = str(plan.precision.dtype).removeprefix("torch.")
    say(
        f"{hardware.get('gpu', hardware['processor'])}, {hardware['threads']} CPU "
        f"threads, {dtype}, torch {head['versions']['torch']}, {head['date']}"
    )
    console.print(table(findings.results))
    say(
        f"Best and median of {plan.rounds} alternating rounds of {plan.repeats} steps; "
        "* is the faster Swin of the cell; speed above 1 is faster, memory below 1 is "
        "less."
    )
    for name in dict.fromkeys(cell.settings for cell in plan.cells):
        shapes = dict.fromkeys(c.shape for c in plan.cells if c.settings == name)
        sizes = ", ".join(f"{height}x{width}" for height, width in shapes)
        regions = ", ".join(f"{key}={value}" for key, value in SETTINGS[name].items())
        say(f"Ours at {sizes}: {name} settings, {regions}")
    for name in dict.fromkeys(check.dtype for check in findings.checks):
        of_dtype = [check for check in findings.checks if check.dtype == name]
        output = max(check.output for check in of_dtype)
        gradients = [c.gradient for c in of_dtype if c.gradient is not None]
        worst = f", gradients by {max(gradients):.0e}" if gradients else ""
        say(
            f"Backends checked in {name}: outputs differ from {REFERENCE!r} in float32 "
            f"by {output:.0e} of the largest value at most{worst}."
        )
    reasons = {item.name: item.reason for item in absent}
    for result in findings.results:
        if result.failed:
            reasons[f"{result.contestant.name} at {result.cell.title}"] = result.failed
    for name, reason in reasons.items():
        say(f"{name} is not measured: {reason}")
    if not findings.complete:
        say("Stopped early: cells are missing.")
