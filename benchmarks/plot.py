"""A plot of time and memory against the size of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from focal_mm.engine.files import replacing

_PANELS = {
    "seconds per image": lambda row: row["median_seconds"] / row["batch"],
    "peak memory, GiB": lambda row: row["peak_bytes"] / 2**30,
}


def draw(rows: Sequence[dict[str, Any]], title: str, path: Path) -> None:
    """Draw time and memory over pixels, a row of two plots for each mode.

    Args:
        rows: Results of :mod:`benchmarks.backbones`.
        title: Of the picture.
        path: PNG to write.

    Raises:
        UserError: If the picture cannot be written.
    """
    modes = list(dict.fromkeys(row["mode"] for row in rows))
    figure = Figure(figsize=(11, 4.4 * len(modes) + 0.5), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots(len(modes), 2, squeeze=False)
    for mode, pair in zip(modes, axes, strict=True):
        lines: dict[str, list[dict[str, Any]]] = {}
        for row in sorted(rows, key=lambda row: math.prod(row["shape"])):
            if row["mode"] == mode:
                name = row["model"] + (", compiled" if row["compiled"] else "")
                lines.setdefault(name, []).append(row)
        for axis, (label, value) in zip(pair, _PANELS.items(), strict=True):
            for name, points in lines.items():
                pixels = [math.prod(row["shape"]) / 1e6 for row in points]
                axis.plot(pixels, [value(row) for row in points], "o-", label=name)
            axis.set(title=mode, xlabel="megapixels", ylabel=label)
            axis.set(xlim=(0, None), ylim=(0, None))
            axis.grid(alpha=0.3)
            axis.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110, format="png")
