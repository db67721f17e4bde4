"""Measured figures beside the paper's, from work dirs alone."""

import functools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config

from focal_mm.engine.ledger.metafile import Figure
from focal_mm.engine.ledger.rows import (
    LEADING,
    METRICS,
    MULTI_SCALE,
    Row,
    measurable,
    read_recipe,
)
from focal_mm.engine.ledger.runs import State, run_of, runs_on_disk
from focal_mm.engine.report.work_dir import differences

# What makes a recipe, and what of it tells only where a run took place.
_RECIPE = (
    "model",
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
    "train_dataloader",
    "auto_scale_lr.base_batch_size",
)
_PLACES = {
    *("ann_file", "backend_args", "checkpoint", "data_root", "init_cfg"),
    *("num_workers", "persistent_workers", "pin_memory", "prefix"),
}
_DIGITS = 4


@dataclass(frozen=True)
class Comparison:
    """One figure of a row.

    Attributes:
        figure: The published one; its value is None for a row that has none.
        task: As metafiles call it; None if the figure is a server's.
        values: What was measured, by the runs' names.
        origin: ``test``, ``validation``, or how far the runs are that have not ended;
            empty if nothing was measured.
        final: Whether the runs have ended.
    """

    figure: Figure
    task: str | None
    values: dict[str, float]
    origin: str
    final: bool

    @property
    def published(self) -> float | None:
        return self.figure.value

    @property
    def mean(self) -> float | None:
        """Mean over the runs."""
        if not self.values:
            return None
        return round(statistics.fmean(self.values.values()), _DIGITS)

    @property
    def spread(self) -> float | None:
        """Standard deviation of the runs (n - 1), if there are several."""
        if len(self.values) < 2:
            return None
        return round(statistics.stdev(self.values.values()), _DIGITS)

    @property
    def difference(self) -> float | None:
        """Measured less published."""
        if self.mean is None or self.published is None:
            return None
        return round(self.mean - self.published, _DIGITS)


@dataclass(frozen=True)
class RowResult:
    """A row with all its runs.

    Attributes:
        row: The row.
        states: Of its runs, by seed; one that has not started if there is none.
        comparisons: Of its figures.
    """

    row: Row
    states: tuple[State, ...]
    comparisons: tuple[Comparison, ...]

    @property
    def smoke(self) -> bool:
        """Whether its figures are of toy data."""
        return self.states[0].recipe.smoke

    def notes(self, state: State) -> list[str]:
        """What a reader of a run's figures must know."""
        notes = []
        if state.work_dir.broken:
            lines = "line" if state.work_dir.broken == 1 else "lines"
            notes.append(f"{state.work_dir.broken} unreadable {lines} in its logs")
        if changed := changes(state):
            notes.append(f"not as in the config: {', '.join(changed)}")
        last = state.work_dir.checkpoint
        for log in state.work_dir.tests[-1:]:
            if last and log.checkpoint and log.checkpoint != last.name:
                notes.append(f"tested is {log.checkpoint}, not {last.name}")
        if is_smoke(state) and not state.recipe.smoke:
            notes.append("a smoke run: left out")
        return notes


def compare(rows: Sequence[Row], work_dirs: Path) -> list[RowResult]:
    """Compare what rows have measured with what was published.

    Args:
        rows: The rows.
        work_dirs: Folder of their work dirs.
    """
    results = []
    for row in rows:
        runs = runs_on_disk(row, work_dirs) or [run_of(row, 0, work_dirs)]
        states = tuple(run.look(read_recipe(row.config)) for run in runs)
        figures = row.compared or _expected(states)
        comparisons = tuple(_compare(figure, states) for figure in figures)
        results.append(RowResult(row, states, comparisons))
    return results


def is_smoke(state: State) -> bool:
    """Whether a run is one on toy data, wherever its work dir is now."""
    return any(log.config.get("smoke") for log in state.work_dir.logs)


@functools.cache
def changes(state: State) -> tuple[str, ...]:
    """Keys at which a run's recipe differs from its row's config."""
    own = state.work_dir.config
    if not own:
        return ()
    config = Config.fromfile(state.run.row.config, import_custom_modules=False)
    keys = []
    for part in _RECIPE:
        left, right = _part(config.to_dict(), part), _part(own, part)
        keys += differences(left, right, part)
    return tuple(key for key in keys if not _PLACES & set(key.split(".")))


def _part(config: dict[str, Any], key: str) -> Any:
    for name in key.split("."):
        config = (config or {}).get(name)
    return config


def _expected(states: Sequence[State]) -> list[Figure]:
    """What to show of a row of which nothing was published."""
    found = {key for state in states for key in _latest(state, augmented=False)[0]}
    return [
        Figure(METRICS[name].dataset, name, "", None, leading=True)
        for name in LEADING
        if METRICS[name].key in found
    ]


def _compare(figure: Figure, states: Sequence[State]) -> Comparison:
    if not measurable(figure):
        return Comparison(figure, None, {}, "", final=False)
    metric = METRICS[MULTI_SCALE.sub("", figure.metric)]
    augmented = bool(MULTI_SCALE.search(figure.metric))
    found = {}
    for state in states:
        values, origin, final = _latest(state, augmented)
        if metric.key in values and (state.recipe.smoke or not is_smoke(state)):
            value = round(values[metric.key] * metric.factor, _DIGITS)
            found[state.run.name] = value, origin, final
    # Of several runs those count that have ended, if any has.
    final = any(final for _, _, final in found.values())
    counted = {name: item for name, item in found.items() if item[2] == final}
    return Comparison(
        figure,
        metric.task,
        values={name: value for name, (value, _, _) in counted.items()},
        origin=", ".join(dict.fromkeys(origin for _, origin, _ in counted.values())),
        final=final,
    )


def _latest(state: State, augmented: bool) -> tuple[dict[str, float], str, bool]:
    """Metrics of a run's last test, else of its last validation.

    Returns:
        The metrics, where they are from, and whether they are those of a run that has
        ended (or, where nothing was trained, of a given checkpoint).
    """
    work_dir = state.work_dir
    ended = state.trained or not work_dir.trainings
    if log := state.test(augmented):
        return log.test, "test" if ended else "test, training goes on", ended
    validations = work_dir.val_curve()
    if augmented or not validations:
        return {}, "", False
    last = validations[-1]
    if ended and last["step"] >= state.recipe.length:
        return last, "validation", True
    return last, f"validation at {state.recipe.unit} {last['step']}", False
