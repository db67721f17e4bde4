"""Writing measured figures into metafiles, which stay as they are everywhere else.

A recorded result is an entry of a model's ``Results`` with ``Source: measured``; it
takes the place of one that was there for the same task and dataset.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing
from focal_mm.engine.ledger.comparison import (
    Comparison,
    RowResult,
    changes,
)
from focal_mm.engine.ledger.metafile import MEASURED


def record(results: Sequence[RowResult]) -> list[Path]:
    """Write what has been measured, of runs that have ended, into the metafiles.

    Args:
        results: Of rows; what they have not measured is left out.

    Returns:
        The metafiles that have changed.

    Raises:
        UserError: If there is nothing to record, a result is one of toy data, or a
            metafile is not laid out as these entries need it.
    """
    if any(result.smoke for result in results):
        raise UserError("smoke runs measure nothing: they are not recorded")
    entries = [(r.row, entry) for r in results for entry in entries_of(r)]
    if not entries:
        raise UserError("no run has ended: there is nothing to record")
    changed = []
    for metafile in dict.fromkeys(row.metafile for row, _ in entries):
        text = metafile.read_text(encoding="utf-8")
        new = text
        for row, entry in entries:
            if row.metafile == metafile:
                new = insert(new, row.name, entry)
        if new != text:
            with replacing(metafile) as partial:
                partial.write_text(new, encoding="utf-8")
            changed.append(metafile)
    return changed


def entries_of(result: RowResult) -> list[dict[str, Any]]:
    """The entries of ``Results`` that a row's figures make: one for each task."""
    entries: dict[str, dict[str, Any]] = {}
    for comparison in result.comparisons:
        if comparison.mean is not None and comparison.final and comparison.task:
            task = comparison.task
            if task not in entries:
                entries[task] = _empty_entry(result, comparison)
            metric = comparison.figure.metric
            entries[task]["Metrics"][metric] = round(comparison.mean, 2)
            if comparison.spread is not None:
                spread = entries[task].setdefault("Spread", {})
                spread[metric] = round(comparison.spread, 2)
    return list(entries.values())


def _empty_entry(result: RowResult, comparison: Comparison) -> dict[str, Any]:
    states = [s for s in result.states if s.run.name in comparison.values]
    logs = [log for state in states for log in state.work_dir.logs]
    date = max(log.folder.name for log in logs)[:8]
    seeds = [(s.work_dir.config.get("randomness") or {}).get("seed") for s in states]
    # Of a run that was started by hand neither command nor commit is known.
    lines = [line for s in states for line in s.commands if "_train.sh " in line]
    started = [line.rpartition(" # commit ") for line in lines]
    entry = {
        "Task": comparison.task,
        "Dataset": comparison.figure.dataset,
        "Source": MEASURED,
        "Date": f"{date[:4]}-{date[4:6]}-{date[6:]}",
        "Seeds": ["unset" if seed is None else seed for seed in seeds],
        "Commit": ", ".join(dict.fromkeys(c for *_, c in started)) or "unknown",
        "Command": started[0][0] if started else "by hand",
    }
    if changed := sorted({key for state in states for key in changes(state)}):
        entry["Changed"] = changed
    return entry | {"Metrics": {}}


def insert(text: str, name: str, entry: dict[str, Any]) -> str:
    """Put an entry among the results of a model of a metafile.

    Args:
        text: The metafile.
        name: Of the model.
        entry: Of ``Results``; takes the place of a measured one of the same task and
            dataset.

    Returns:
        The text with the entry in it, the same everywhere else.

    Raises:
        UserError: If the text is laid out in another way than line by line.
    """
    model = _model(yaml.compose(text), name)
    metadata, results = _child(model, "Metadata"), _child(model, "Results")
    lines = text.splitlines(keepends=True)
    indent = " " * (model.start_mark.column + 2)
    head, replaced = "", None
    if results is None:
        end = _end(metadata)
        head = f"{' ' * model.start_mark.column}Results:\n"
    else:
        indent = " " * results.start_mark.column
        replaced = next((old for old in results.value if _alike(old, entry)), None)
        end = _end(replaced or results)
    begin = replaced.start_mark.line if replaced else end
    style = dict(sort_keys=False, default_flow_style=None, width=10**6)
    dumped = yaml.safe_dump([entry], allow_unicode=True, **style)
    lines[begin:end] = [head + textwrap.indent(dumped, indent)]
    new = "".join(lines)
    if yaml.safe_load(new) != _expected(yaml.safe_load(text), name, entry):
        raise UserError(f"{name} of the metafile is not laid out line by line")
    return new


def _model(document: yaml.MappingNode, name: str) -> yaml.MappingNode:
    for model in _child(document, "Models").value:
        if _child(model, "Name").value == name:
            return model
    raise UserError(f"the metafile has no model {name}")


def _child(mapping: yaml.MappingNode, key: str) -> yaml.Node | None:
    return next((value for name, value in mapping.value if name.value == key), None)


def _end(node: yaml.Node) -> int:
    """The line after a node's last one: a block's own mark is beyond its comments."""
    if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
        return node.end_mark.line + 1
    last = node.value[-1]
    return _end(last[1] if isinstance(last, tuple) else last)


def _alike(old: yaml.MappingNode, entry: dict[str, Any]) -> bool:
    keys = ("Task", "Dataset", "Source")
    found = [_child(old, key) for key in keys]
    values = [node.value if node else None for node in found]
    return values == [entry[key] for key in keys]


def _expected(contents: dict, name: str, entry: dict[str, Any]) -> dict:
    """What a metafile with the entry must hold."""
    model = next(model for model in contents["Models"] if model["Name"] == name)
    results = model.setdefault("Results", [])
    keys = ("Task", "Dataset", "Source")
    for place, old in enumerate(results):
        if all(old.get(key) == entry[key] for key in keys):
            results[place] = entry
            return contents
    results.append(entry)
    return contents
