"""Cost and memory against pixels, drawn from what ``benchmarks/backbones.py`` wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from focal_mm.engine.errors import UserError

_MEGA = 1e6


@dataclass(frozen=True)
class Series:
    """One model at several sizes.

    Attributes:
        name: What the legend calls it.
        family: 'focal' or 'swin'.
        pixels: Of one image, increasing.
        seconds: Of one image.
        peak_bytes: Of the whole batch.
    """

    name: str
    family: str
    pixels: tuple[int, ...]
    seconds: tuple[float, ...]
    peak_bytes: tuple[int, ...]


@dataclass(frozen=True)
class Line:
    """``constant + slope * pixels``.

    Attributes:
        constant: At no pixels.
        slope: For each pixel.
        deviation: Of the point that is farthest off, relative to the point.
    """

    constant: float
    slope: float
    deviation: float


def fit_line(pixels: Sequence[float], values: Sequence[float]) -> Line:
    """Fit a straight line so that relative deviations are small (least squares).

    The constant is not negative: with no pixels there is no negative cost.
    """
    x, y = np.asarray(pixels, float), np.asarray(values, float)
    columns = np.stack((1 / y, x / y), axis=1)
    constant, slope = np.linalg.lstsq(columns, np.ones_like(y), rcond=None)[0]
    if constant < 0:
        constant, slope = 0.0, (x / y).sum() / np.square(x / y).sum()
    deviation = np.abs((constant + slope * x) / y - 1).max()
    return Line(float(constant), float(slope), float(deviation))


def read_series(
    content: dict[str, Any], mode: str, compiled: bool, backend: str | None = None
) -> list[Series]:
    """The Swins and one of ours at the square sizes of a document.

    Args:
        content: What ``benchmarks/backbones.py --json`` wrote.
        mode: 'inference' or 'training'.
        compiled: Which form.
        backend: Whose figures stand for ours; by default those of 'auto' or, where it
            was not measured, of the fastest at the largest size that most reach.

    Raises:
        UserError: If there are fewer than three sizes, or batches differ.
    """
    rows = [
        row
        for row in content["results"]
        if row["mode"] == mode
        and row["compiled"] == compiled
        and row["height"] == row["width"]
        and row["best_seconds"]
    ]
    if not rows:
        return []
    if len({row["batch"] for row in rows}) > 1:
        raise UserError("sizes have different batches: measure with --batch N for all")
    if len({row["settings"] for row in rows if row["family"] == "focal"}) > 1:
        raise UserError(
            "sizes have different focal settings: measure with --settings detection"
        )
    by_model: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["width"]):
        by_model.setdefault(row["model"], []).append(row)
    ours = {
        found[0]["backend"]: name
        for name, found in by_model.items()
        if found[0]["family"] == "focal"
    }
    if backend is not None and backend not in ours:
        raise UserError(f"backend {backend!r} was not measured: {list(ours)} were")
    if ours:
        chosen = backend or ("auto" if "auto" in ours else None)
        keep = ours.get(chosen) or min(
            ours.values(),
            key=lambda name: (
                -by_model[name][-1]["width"],
                by_model[name][-1]["best_seconds"],
            ),
        )
        for name in ours.values():
            if name != keep:
                del by_model[name]
    series = []
    for name, found in by_model.items():
        if len(found) < 3:
            raise UserError(f"{name} has {len(found)} square sizes, 3 are needed")
        series.append(
            Series(
                name,
                found[0]["family"],
                tuple(row["height"] * row["width"] for row in found),
                tuple(row["best_seconds"] / row["batch"] for row in found),
                tuple(row["peak_bytes"] for row in found),
            )
        )
    return sorted(series, key=lambda item: (item.family, item.name))


def draw(content: dict[str, Any], rows: dict[str, list[Series]]) -> Figure:
    """Time and memory over pixels, a row of two plots for each mode.

    Args:
        content: The document, for the captions.
        rows: Series by mode.
    """
    figure = Figure(figsize=(11, 4.4 * len(rows) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 2, squeeze=False)
    for (mode, series), (left, right) in zip(rows.items(), axes, strict=True):
        slowest = max(max(item.seconds) for item in series)
        largest = max(max(item.peak_bytes) for item in series)
        time_unit, second = ("s", 1.0) if slowest >= 1 else ("ms", 1e-3)
        memory_unit, many = ("GiB", 2**30) if largest >= 2**30 else ("MiB", 2**20)
        for index, item in enumerate(series):
            style = dict(color=f"C{index}", marker="os^Dv"[index % 5])
            times = [seconds / second for seconds in item.seconds]
            _plot(left, item, times, time_unit, style)
            memory = [count / many for count in item.peak_bytes]
            _plot(right, item, memory, memory_unit, style)
        what = "a step of training" if mode == "training" else "inference"
        left.set(title=f"Time of {what}", ylabel=f"{time_unit} per image")
        right.set(title=f"Peak memory of {what}", ylabel=memory_unit)
        for axis in (left, right):
            _finish(axis, {p for item in series for p in item.pixels})
    figure.suptitle(caption(content), fontsize="medium")
    return figure


def caption(content: dict[str, Any]) -> str:
    """What was measured, where and when."""
    machine = content["machine"]
    batch = content["results"][0]["batch"]
    name = machine.get("gpu") or f"{machine['processor']}, {machine['threads']} threads"
    return (
        f"{name}, {content['dtype']}, batch {batch}, "
        f"torch {content['versions']['torch']}, {content['date'][:10]}; "
        "lines: constant + slope · pixels"
    )


def _plot(
    axis: Any, item: Series, values: list[float], unit: str, style: dict[str, str]
) -> None:
    line = fit_line(item.pixels, values)
    pixels = np.array([0, item.pixels[-1]])
    label = (
        f"{item.name}: {line.constant:.3g} + {line.slope * _MEGA:.3g} {unit}/Mpixel, "
        f"points within {line.deviation:.0%}"
    )
    axis.plot(np.array(item.pixels) / _MEGA, values, linestyle="none", **style)
    values_on_line = line.constant + line.slope * pixels
    axis.plot(pixels / _MEGA, values_on_line, color=style["color"], label=label)


def _finish(axis: Any, pixels: set[int]) -> None:
    """Name the sizes on the x axis, those that have room."""
    named: list[int] = []
    for count in sorted(pixels, reverse=True):
        if not named or named[-1] - count >= 0.09 * max(pixels):
            named.append(count)
    axis.set_xticks(
        [count / _MEGA for count in named],
        [f"{round(count**0.5)}²\n{count / _MEGA:.2f}" for count in named],
    )
    axis.set(xlabel="image size, in megapixels below", xlim=(0, None), ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; where that fails, what was there before stays.

    Raises:
        UserError: If it cannot be written.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        figure.savefig(partial, dpi=110, format="png")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from None
