"""Draw time and memory against image size from what benchmarks.backbones wrote."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.backbones import PROGRAM as SCHEMA
from benchmarks.measure import MODES
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.files import replacing
from focal_mm.engine.options import Parser

PROGRAM = "python -m benchmarks.plot_scaling"
DESCRIPTION = """\
Draw time and memory of the square sizes of a benchmark against pixels, with a straight
line through the points of each model. A file that can be drawn is written by

  python -m benchmarks.backbones --sizes 224 448 672 896 1344 2048 --batch 1 \
--settings detection --backends auto --json scaling.json
"""
OUT = Path("docs/images/scaling.png")


def read(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A benchmark's document, and the rows of its square sizes in their order.

    Raises:
        UserError: If the file is something else, has no such rows, or their batches or
            focal settings differ.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise UserError(f"{path} was not written by this version's {SCHEMA}")
    rows = [row for row in content["results"] if row["height"] == row["width"]]
    if not rows:
        raise UserError(f"{path} has no square sizes")
    for key, option in (("batch", "--batch N"), ("settings", "--settings NAME")):
        if len({row[key] for row in rows}) > 1:
            raise UserError(f"{path}: {key} of the sizes differ, measure with {option}")
    return content, sorted(rows, key=lambda row: row["width"])


def fit_line(pixels: np.ndarray, values: np.ndarray) -> tuple[float, float, float]:
    """Fit a straight line so that relative deviations are small (least squares).

    Returns:
        Constant, slope, and the largest deviation of a point relative to the point.
    """
    slope, constant = np.polyfit(pixels, values, 1, w=1 / values)
    deviation = np.abs((constant + slope * pixels) / values - 1).max()
    return float(constant), float(slope), float(deviation)


def draw(rows: Sequence[dict[str, Any]], title: str) -> Figure:
    """Time and memory over pixels, a row of two plots for each mode.

    Raises:
        UserError: If a model has fewer than three sizes.
    """
    modes = [mode for mode in MODES if any(row["mode"] == mode for row in rows)]
    figure = Figure(figsize=(11, 4.4 * len(modes) + 0.5), layout="constrained")
    axes = figure.subplots(len(modes), 2, squeeze=False)
    for mode, (left, right) in zip(modes, axes, strict=True):
        series: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["mode"] == mode:
                name = row["model"] + (", compiled" if row["compiled"] else "")
                series.setdefault(name, []).append(row)
        for name, points in series.items():
            if len(points) < 3:
                raise UserError(f"{name} has {len(points)} square sizes, 3 are needed")
            pixels = np.array([row["width"] ** 2 / 1e6 for row in points])
            seconds = [row["median_seconds"] / row["batch"] for row in points]
            memory = [row["peak_bytes"] / 2**30 for row in points]
            _plot(left, pixels, np.array(seconds), f"{name}, s")
            _plot(right, pixels, np.array(memory), f"{name}, GiB")
        what = "a step of training" if mode == "training" else "inference"
        left.set(title=f"Time of {what}", ylabel="seconds per image")
        right.set(title=f"Peak memory of {what}", ylabel="GiB")
        for axis in (left, right):
            axis.set(xlabel="megapixels", xlim=(0, None), ylim=(0, None))
            axis.grid(alpha=0.3)
            axis.legend(fontsize="small")
    figure.suptitle(title, fontsize="medium")
    return figure


def _plot(axis: Any, pixels: np.ndarray, values: np.ndarray, name: str) -> None:
    constant, slope, deviation = fit_line(pixels, values)
    label = f"{name}: {constant:.3g} + {slope:.3g} a megapixel, within {deviation:.0%}"
    ends = np.array([0, pixels[-1]])
    (line,) = axis.plot(ends, constant + slope * ends, label=label)
    axis.plot(pixels, values, "o", color=line.get_color())


def run(argv: Sequence[str] | None) -> None:
    """Read, draw, write.

    Raises:
        UserError: If the file cannot be drawn, or the picture not be written.
    """
    parser = Parser(prog=PROGRAM, description=DESCRIPTION)
    parser.add_argument("json", type=Path, metavar="JSON")
    parser.add_argument(
        "--out", type=Path, default=OUT, metavar="PNG", help="default: %(default)s"
    )
    args = parser.parse_args(argv)
    content, rows = read(args.json)
    title = f"{content['machine']}, {content['dtype']}, {content['date'][:10]}"
    figure = draw(rows, title)
    with replacing(args.out) as partial:
        figure.savefig(partial, dpi=110, format="png")
    print(f"drawn: {args.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_guarded(PROGRAM, lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
