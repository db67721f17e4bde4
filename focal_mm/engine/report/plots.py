"""Curves of trainings, and measured figures beside published ones."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Curve = tuple[Sequence[float], Sequence[float]]
"""Abscissas and ordinates."""

_COLOURS = ("#2563ab", "#c2571a", "#3a8a4d", "#8a4da8", "#a83c4d", "#5f6b76")
_GREY, _INK = "#8a94a0", "#2b333b"


@dataclass(frozen=True)
class Panel:
    """One plot of a row of plots.

    Attributes:
        title: What is drawn.
        x: Name of the abscissa.
        curves: By their names, one or several of a kind; kinds have colours.
        published: Values drawn as dashed lines, by the names of the curves.
    """

    title: str
    x: str
    curves: Mapping[str, Sequence[Curve]]
    published: Mapping[str, float] = field(default_factory=dict)


def draw_panels(panels: Sequence[Panel]) -> Figure:
    """Draw panels beside each other."""
    figure = Figure(figsize=(4.8 * len(panels), 3.1), layout="constrained")
    places = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, panel in zip(places, panels, strict=True):
        _style(axes, panel.title)
        axes.set_xlabel(panel.x, color=_INK, fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for (name, curves), colour in zip(panel.curves.items(), cycle(_COLOURS)):
            for index, (xs, ys) in enumerate(curves):
                mark = "o" if len(xs) < 50 else None
                style = dict(color=colour, lw=1.3, marker=mark, ms=3, alpha=0.8)
                axes.plot(xs, ys, label=None if index else name, **style)
            if name in panel.published:
                value = panel.published[name]
                label = f"paper, {value:g}"
                axes.axhline(value, color=colour, lw=1, ls="--", label=label)
        if len(panel.curves) > 1 or panel.published:
            axes.legend(fontsize=8, frameon=False)
    return figure


def draw_differences(
    names: Sequence[str], differences: Sequence[float], spreads: Sequence[float]
) -> Figure:
    """Draw how far measured figures are from published ones, the first on top."""
    height = 0.9 + 0.27 * len(names)
    figure = Figure(figsize=(8.2, height), layout="constrained")
    axes = figure.subplots()
    _style(axes, "measured less published")
    places = range(len(names))
    colours = [_COLOURS[0] if value >= 0 else _COLOURS[1] for value in differences]
    axes.axvline(0, color=_INK, lw=1)
    axes.hlines(places, 0, differences, color=colours, lw=1.2, alpha=0.5)
    axes.errorbar(
        differences, places, xerr=spreads, fmt="none", ecolor=_GREY, capsize=3, lw=1
    )
    axes.scatter(differences, places, color=colours, s=26, zorder=3)
    axes.set_yticks(places, names, fontsize=8, color=_INK)
    axes.invert_yaxis()
    return figure


def to_png(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def _style(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    axes.grid(alpha=0.25)
    axes.tick_params(labelsize=8, colors=_INK)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(_GREY)
