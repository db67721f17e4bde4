"""The comparison as a table, as Markdown, as JSON, and as a page with curves."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focal_mm.engine.files import replacing
from focal_mm.engine.ledger.comparison import Comparison, RowResult
from focal_mm.engine.ledger.rows import LEADING, METRICS
from focal_mm.engine.ledger.runs import State
from focal_mm.engine.report.page import Cell, Page, Section, Sheet, render
from focal_mm.engine.report.plots import Panel, draw_differences, draw_panels, to_png

COLUMNS = ("row", "metric", "paper", "measured", "difference", "from")
SMOKE_WARNING = (
    "A smoke run: toy data and a few steps. It shows that the whole path works; its "
    "figures say nothing about the rows."
)
_INTRO = (
    "Figures of the paper beside those that these work dirs have measured: the mean "
    "over the runs with different seeds and, after ±, their standard deviation "
    "(n - 1). All are per cent; a difference is measured less published."
)
_LOSS_POINTS = 2000


def cells(result: RowResult, comparison: Comparison) -> list[Cell]:
    """A line of the tables."""
    figure = comparison.figure
    where = "" if comparison.task or not figure.dataset else f", {figure.dataset}"
    number = Cell("", "number")
    published = measured = difference = number
    if comparison.published is not None:
        published = f"{comparison.published:.2f}".removesuffix("0")
        published = Cell(published, "number", figure.reference)
    if comparison.mean is not None:
        hint = ", ".join(f"{name}: {v:g}" for name, v in comparison.values.items())
        measured = Cell(measured_text(comparison), "number", hint)
    if comparison.difference is not None and not result.smoke:
        kind = "up" if comparison.difference >= 0 else "down"
        kind = kind if comparison.final else "number"
        difference = Cell(f"{comparison.difference:+.2f}", kind)
    origin = comparison.origin or _state_words(result)
    if comparison.task is None:
        origin = "COCO's server"
    return [
        Cell(result.row.name),
        Cell(figure.metric + where),
        published,
        measured,
        difference,
        Cell(origin, "muted"),
    ]


def measured_text(comparison: Comparison) -> str:
    """``44.83 ± 0.12 (3)``: mean, spread and number of the runs."""
    text = f"{comparison.mean:.2f}"
    if comparison.spread is not None:
        text += f" ± {comparison.spread:.2f} ({len(comparison.values)})"
    return text


def _state_words(result: RowResult) -> str:
    return "; ".join(dict.fromkeys(str(state) for state in result.states))


def to_json(results: Sequence[RowResult]) -> str:
    """All figures and where they are from, without times: equal runs, equal text."""
    contents: list[dict[str, Any]] = []
    for result in results:
        figures = [
            {
                "dataset": comparison.figure.dataset,
                "metric": comparison.figure.metric,
                "reference": comparison.figure.reference,
                "paper": comparison.published,
                "measured": comparison.mean,
                "spread": comparison.spread,
                "difference": None if result.smoke else comparison.difference,
                "runs": comparison.values,
                "from": comparison.origin,
                "final": comparison.final,
            }
            for comparison in result.comparisons
        ]
        runs = [
            {
                "name": state.run.name,
                "done": state.done,
                "trained": state.work_dir.trained,
                "length": state.length,
                "seed": _seed(state),
                "loss": _last_loss(state),
                "notes": result.notes(state),
            }
            for state in result.states
        ]
        contents.append(
            dict(row=result.row.name, smoke=result.smoke, figures=figures, runs=runs)
        )
    return json.dumps(contents, indent=2, ensure_ascii=False) + "\n"


def _seed(state: State) -> int | None:
    """The seed that a run was really given."""
    return (state.work_dir.config.get("randomness") or {}).get("seed")


def write_report(results: Sequence[RowResult], out: Path) -> None:
    """Write ``report.md``, ``report.html`` and ``plots/*.png`` into a folder.

    Raises:
        focal_mm.engine.errors.UserError: If they cannot be written.
    """
    plots = {
        result.row.name: png
        for result in results
        if (png := _curves(result)) is not None
    }
    if overview := _overview(results):
        plots["differences"] = overview
    for name, png in plots.items():
        with replacing(out / "plots" / f"{name}.png") as partial:
            partial.write_bytes(png)
    page = _page(results, plots)
    for name, text in (("md", _markdown(page)), ("html", render(page))):
        with replacing(out / f"report.{name}") as partial:
            partial.write_text(text, encoding="utf-8")


def _curves(result: RowResult) -> bytes | None:
    """Losses and leading metrics of a row's runs; None if there are none."""
    losses, metrics = {}, defaultdict(list)
    for state in result.states:
        lines = state.work_dir.train_curve()
        if not lines:
            continue
        lines = lines[:: max(1, len(lines) // _LOSS_POINTS)]
        curve = [line["step"] for line in lines], [_loss(line) for line in lines]
        losses[state.run.name] = [curve]
        for metric, curve in _validations(state).items():
            metrics[metric].append(curve)
    if not losses:
        return None
    panels = [Panel("training loss", "iteration", losses)]
    if metrics:
        published = {
            comparison.figure.metric: comparison.published
            for comparison in result.comparisons
            if comparison.published is not None and comparison.task and not result.smoke
        }
        unit = result.states[0].recipe.unit.replace("iter", "iteration")
        panels.append(Panel("validation", unit, metrics, published))
    return to_png(draw_panels(panels))


def _last_loss(state: State) -> float | None:
    lines = state.work_dir.train_curve()
    return _loss(lines[-1]) if lines else None


def _loss(line: dict[str, float]) -> float:
    return line.get("loss", sum(v for key, v in line.items() if "loss" in key))


def _validations(state: State) -> dict[str, tuple[list[float], list[float]]]:
    """Curves of leading metrics; the test of the end where its validation is lost."""
    curve = state.work_dir.val_curve()
    test = state.test(augmented=False)
    if test and state.trained and state.recipe.length not in [c["step"] for c in curve]:
        curve = [*curve, {**test.test, "step": state.recipe.length}]
    found = {}
    for name in LEADING:
        metric = METRICS[name]
        lines = [line for line in curve if metric.key in line]
        if lines:
            values = [line[metric.key] * metric.factor for line in lines]
            found[name] = [line["step"] for line in lines], values
    return found


def _overview(results: Sequence[RowResult]) -> bytes | None:
    """How far leading figures are from the paper's."""
    names, values, spreads = [], [], []
    for result in results:
        for comparison in result.comparisons:
            if result.smoke or comparison.difference is None or not comparison.final:
                continue
            if comparison.figure.leading:
                names.append(f"{result.row.name}, {comparison.figure.metric}")
                values.append(comparison.difference)
                spreads.append(comparison.spread or 0.0)
    return to_png(draw_differences(names, values, spreads)) if names else None


def _sheets(results: Sequence[RowResult]) -> list[Sheet]:
    """A table for each collection, a row's name on its first line only."""
    rows = defaultdict(list)
    for result in results:
        lines = [cells(result, comparison) for comparison in result.comparisons]
        lines = lines or [[Cell(result.row.name), *[Cell("")] * 4, _state_cell(result)]]
        for line in lines[1:]:
            line[0] = Cell("")
        rows[result.row.collection] += lines
    return [Sheet(title, COLUMNS, lines) for title, lines in rows.items()]


def _state_cell(result: RowResult) -> Cell:
    return Cell(_state_words(result), "muted")


def _facts(results: Sequence[RowResult]) -> list[tuple[str, str]]:
    states = [state for result in results for state in result.states]
    figures = [c for result in results for c in result.comparisons]
    rows = sum(all(state.done for state in result.states) for result in results)
    return [
        (f"{rows} of {len(results)}", "rows done"),
        (str(sum(bool(state.work_dir.trainings) for state in states)), "runs"),
        (f"{sum(c.mean is not None for c in figures)} of {len(figures)}", "figures"),
    ]


def _details(result: RowResult) -> list[tuple[str, str]]:
    """Where a row's figures are from, run by run."""
    lines = []
    for state in result.states:
        commands = [f"$ {command}" for command in state.commands]
        about = [str(state), *result.notes(state), *commands]
        if (seed := _seed(state)) is not None:
            about[0] += f", seed {seed}"
        lines.append((str(state.run.folder), "\n".join(about)))
    return lines


def _page(results: Sequence[RowResult], plots: dict[str, bytes]) -> Page:
    overview = None
    if "differences" in plots:
        overview = Section(
            "Difference from the paper",
            png=plots["differences"],
            alt="Measured figures less the paper's, with standard deviations",
        )
    sections = [
        Section(
            result.row.name,
            _state_words(result),
            plots.get(result.row.name),
            f"Training loss and validation of {result.row.name}",
            _details(result),
        )
        for result in results
        if any(state.work_dir.logs for state in result.states)
    ]
    return Page(
        title="Reproduction of Focal Transformers",
        intro=_INTRO,
        warning=SMOKE_WARNING if any(result.smoke for result in results) else "",
        facts=_facts(results),
        overview=overview,
        sheets=_sheets(results),
        sections=sections,
    )


def _markdown(page: Page) -> str:
    parts = [f"# {page.title}", page.intro]
    parts += [f"**{page.warning}**"] if page.warning else []
    parts.append(", ".join(f"{number} {what}" for number, what in page.facts))
    if page.overview:
        parts += [f"## {page.overview.title}", "![](plots/differences.png)"]
    for sheet in page.sheets:
        rules = ["--:" if name in COLUMNS[2:5] else "---" for name in sheet.columns]
        rows = [sheet.columns, rules]
        rows += [[cell.text.replace("|", "\\|") for cell in row] for row in sheet.rows]
        table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
        parts += [f"## {sheet.title}", table]
    for section in page.sections:
        parts.append(f"## {section.title}")
        if section.png:
            parts.append(f"![{section.alt}](plots/{section.title}.png)")
        for name, text in section.lines:
            lines = "\n".join(f"  - {line}" for line in text.splitlines())
            parts.append(f"- `{name}`\n{lines}")
    return "\n\n".join(parts) + "\n"
