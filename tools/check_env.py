"""Show what this environment can run: versions, mmcv's operators, devices, attention.

``python tools/check_env.py``; the exit code is 1 where something needed is broken.
"""

import importlib
import os
import platform
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone reports on its own code, installed or not.
    sys.path.insert(0, str(ROOT))

# Import name -> names of the distributions that bring it: maintained, upstream.
FAMILIES = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
}
PACKAGES = ("torch", "torchvision", "triton", "numpy")
REQUIRED = ("torch", "mmengine")


class Table(NamedTuple):
    """One section of the report; ``problems`` are what makes the check fail."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]]
    problems: list[str]


def installed_version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def import_problem(name: str) -> str:
    """The exact reason why a module cannot be imported, or an empty string."""
    try:
        # Libraries check each other's versions by assertions, and a binary built for
        # another torch raises an OSError or ImportError.
        importlib.import_module(name)
    except Exception as error:
        first_line = str(error).strip().split("\n")[0]
        return f"{type(error).__name__}: {first_line}"
    return ""


def check_versions() -> Table:
    """Versions of all libraries, whether each can be imported, from one family only."""
    rows = [("python", platform.python_version(), sys.executable)]
    problems = family_problems()
    for name in (*PACKAGES, *FAMILIES):
        distributions = FAMILIES.get(name, (name,))
        found = {d: v for d in distributions if (v := installed_version(d))}
        reason = import_problem(name)
        if reason and (found or name in REQUIRED):
            problems.append(f"{name} cannot be imported: {reason}")
        versions = ", ".join(found.values()) or "not installed"
        rows.append((name, versions, ", ".join(found)))
    reason = import_problem("focal_mm")
    if reason:
        problems.append(f"focal_mm cannot be imported: {reason}")
    else:
        focal_mm = sys.modules["focal_mm"]
        rows.append(("focal_mm", focal_mm.__version__, focal_mm.__path__[0]))
    return Table("Versions", ("package", "version", "from"), rows, problems)


def family_problems() -> list[str]:
    """Only one of the two OpenMMLab families may be installed."""
    names = zip(*FAMILIES.values(), strict=True)
    maintained, upstream = ([n for n in side if installed_version(n)] for side in names)
    if not maintained or not upstream:
        return []
    return [
        f"two OpenMMLab families in one environment ({', '.join(maintained)} and "
        f"{', '.join(upstream)}) overwrite each other: make a new one with one of them"
    ]


def check_mmcv_ops() -> Table:
    """Whether mmcv's compiled operators load and run, on each kind of device."""
    columns = ("operators of mmcv", "run", "reason")
    if import_problem("mmcv"):
        return Table("Compiled operators", columns, [("all", "no", "no mmcv")], [])
    rows, problems = [], []
    for device in devices():
        reason = import_problem("mmcv.ops") or run_problem(device)
        rows.append((device, "no" if reason else "yes", reason))
        if reason:
            problems.append(
                f"mmcv's operators do not run on {device}: {reason}; mmcv must be "
                "compiled for this torch and device: move .venv away, run `make setup`"
            )
    return Table("Compiled operators", columns, rows, problems)


def devices() -> list[str]:
    torch = importlib.import_module("torch")
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def run_problem(device: str) -> str:
    """The exact reason why non-maximum suppression fails on a device, or ''."""
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    try:
        kept = nms(boxes, scores, iou_threshold=0.5)[1].tolist()
    except (RuntimeError, NotImplementedError) as error:
        return str(error).strip().split("\n")[0]
    return "" if kept == [0] else f"wrong result, kept boxes {kept} instead of [0]"


def check_devices() -> Table:
    """Processors and GPUs, with what MMEngine collects about toolchains."""
    import torch

    cores = len(os.sched_getaffinity(0))
    rows = [("CPU", f"{cores} cores, torch uses {torch.get_num_threads()} threads")]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        text = f"{gpu.name}, {gpu.total_memory / 2**30:.1f} GiB, "
        rows.append((f"GPU {index}", f"{text}capability {gpu.major}.{gpu.minor}"))
    if torch.cuda.device_count() == 0:
        built = torch.version.cuda
        why = "no NVIDIA GPU or driver" if built else "this torch is built without CUDA"
        rows.append(("GPU", f"none: {why}"))
    if not import_problem("mmengine"):
        from mmengine.utils.dl_utils import collect_env

        collected = collect_env()
        wanted = ("sys.platform", "CUDA_HOME", "NVCC", "GCC", "OpenCV")
        rows += [(key, str(collected[key])) for key in wanted if key in collected]
    return Table("Devices and tools", ("item", "found"), rows, [])


def check_backends() -> Table:
    """Which attention backends can run here, in order of preference."""
    from focal_mm.ops import backend_support

    support = backend_support()
    rows = [(b.name, "yes" if b.ok else "no", b.reason) for b in support]
    usable = any(b.ok for b in support)
    problems = [] if usable else ["no attention backend can run here"]
    return Table("Attention backends", ("backend", "runs", "reason"), rows, problems)


def collect_tables() -> list[Table]:
    """All sections; those that need a library that is broken are left out."""
    tables = [check_versions()]
    if not import_problem("torch"):
        tables += [check_mmcv_ops(), check_devices()]
    if not import_problem("focal_mm"):
        tables.append(check_backends())
    return tables


def printer() -> Callable[[Table], None]:
    """Prints a table with rich where it is installed, else as plain columns."""
    try:
        from rich.console import Console
        from rich.table import Table as RichTable
        from rich.text import Text
    except ImportError:
        return print_plainly
    console = Console()

    def print_rich(table: Table) -> None:
        shown = RichTable(*table.columns, title=table.title, title_justify="left")
        for row in table.rows:
            shown.add_row(*map(Text, row))
        console.print(shown)

    return print_rich


def print_plainly(table: Table) -> None:
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    print(table.title)
    for line in lines:
        cells = (cell.ljust(w) for cell, w in zip(line, widths, strict=True))
        print("  " + "  ".join(cells).rstrip())


def main() -> int:
    warnings.simplefilter("ignore")
    tables = collect_tables()
    show = printer()
    for table in tables:
        show(table)
    problems = [problem for table in tables for problem in table.problems]
    for problem in problems:
        print(f"ERROR: {problem}")
    print("something needed is broken" if problems else "all that is needed works")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
