"""The model zoo: a folder's ``metafile.yml`` as tables in its ``README.md``.

A metafile is in model-index format (https://github.com/paperswithcode/model-index)
with two more keys:

- ``Metadata.Source`` of a model says whose ``Parameters``, ``FLOPs`` and results these
  are: ``paper``, say, or ``measured`` for this project's own.
- ``Source`` of an entry of ``Results`` says so of that entry, where it differs. Thus a
  figure of this project is added to a row of the paper as one more entry, of the same
  task, dataset and metrics, with ``Source: measured``.

Nothing else is particular to a task: metrics are whatever the entries name.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from focal_mm.engine.errors import UserError

METAFILE, README = "metafile.yml", "README.md"
MEASURED = "measured"
BEGIN = "<!-- model zoo: written by tools/model_zoo.py from metafile.yml -->"
END = "<!-- end of the model zoo -->"

# Columns besides the results, where a model of the table has them.
_COLUMNS = {
    "Backbone": ("Backbone", str),
    "Pretraining Data": ("Pretraining", str),
    "Training Resolution": ("Resolution", str),
    "Epochs": ("Epochs", str),
    "Iterations": ("Iterations", str),
    "Parameters": ("Params (M)", lambda value: f"{value / 1e6:.4g}"),
    "FLOPs": ("FLOPs (G)", lambda value: f"{value / 1e9:.4g}"),
}
_TEXTS = ("Config", "Backbone", "Pretraining")


@dataclass(frozen=True)
class Figure:
    """One number of a model.

    Attributes:
        dataset: What it was measured on.
        metric: Its name there.
        source: Who says so; ``MEASURED`` is this project.
        value: The number.
        leading: Whether its entry names it first: such a metric is measured first.
    """

    dataset: str
    metric: str
    source: str
    value: float
    leading: bool


def read_metafile(path: str | Path) -> dict[str, Any]:
    """Read a metafile.

    Args:
        path: The YAML file.

    Returns:
        Its contents: ``Collections`` and ``Models``.

    Raises:
        UserError: If it is not there, or not a metafile of the format above.
    """
    try:
        contents = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = " ".join(str(error).split())
        raise UserError(f"{path} is not a metafile: {line}") from None
    try:
        collections = {entry["Name"] for entry in contents["Collections"]}
        for model in contents["Models"]:
            _check_model(model, collections)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a metafile in model-index format: {error!r}"
        ) from None
    return contents


def _check_model(model: dict, collections: set[str]) -> None:
    name, where = model["Name"], model["In Collection"]
    if where not in collections:
        raise UserError(f"{name}: there is no collection {where!r}")
    if not isinstance(model["Config"], str):
        raise UserError(f"{name}: Config must be a path")
    if not isinstance(model["Metadata"].get("Source"), str):
        raise UserError(f"{name}: Metadata.Source must say whose figures these are")
    for figure in figures_of(model):
        if not isinstance(figure.source, str) or not isinstance(figure.dataset, str):
            raise UserError(f"{name}: Source and Dataset of a result must be names")
        if isinstance(figure.value, bool) or not isinstance(figure.value, (int, float)):
            raise UserError(
                f"{name}: {figure.metric} must be a number, got {figure.value!r}"
            )


def figures_of(model: dict[str, Any]) -> Iterator[Figure]:
    """All results of a model, in the metafile's order.

    Args:
        model: An entry of ``Models``.

    Yields:
        One figure per metric.

    Raises:
        KeyError: If an entry lacks a key.
    """
    results = model.get("Results") or []
    for entry in [results] if isinstance(results, dict) else results:
        source = entry.get("Source", model["Metadata"]["Source"])
        for index, (metric, value) in enumerate(entry["Metrics"].items()):
            yield Figure(entry["Dataset"], metric, source, value, leading=not index)


def zoo_tables(metafile: dict[str, Any], readme: str | Path) -> str:
    """The tables of a metafile in Markdown, one per collection.

    A column holds one metric of one dataset from one source. A figure that is leading
    in its entry has a measured column beside it, empty until measured; others have it
    once any of the table is measured.

    Args:
        metafile: As ``read_metafile`` returns it.
        readme: File that they are for: links are relative to it. Config paths of the
            metafile are relative to the working directory.

    Returns:
        Headings and tables, without a newline at the end.
    """
    parts = []
    for collection in metafile["Collections"]:
        name = collection["Name"]
        models = [m for m in metafile["Models"] if m["In Collection"] == name]
        if models:
            paper = collection.get("Paper")
            title = f"[{name}]({paper['URL']})" if paper else name
            parts += [f"### {title}", _table(models, Path(readme).parent)]
    return "\n\n".join(parts)


def _table(models: list[dict], folder: Path) -> str:
    fields = [name for name in _COLUMNS if any(name in m["Metadata"] for m in models)]
    columns = _result_columns(models)
    datasets = list(dict.fromkeys(dataset for dataset, _, _ in columns))
    head = ["Config", *(_COLUMNS[name][0] for name in fields)]
    for dataset, metric, source in columns:
        place = "" if dataset == datasets[0] else f", {dataset}"
        head.append(f"{metric}{place} ({source})")
    rows = [head, ["---" if name in _TEXTS else "--:" for name in head]]
    for model in models:
        link = os.path.relpath(model["Config"], folder)
        row = [f"[{model['Name']}]({link})"]
        for name in fields:
            value = model["Metadata"].get(name)
            row.append("" if value is None else _COLUMNS[name][1](value))
        figures = {(f.dataset, f.metric, f.source): f.value for f in figures_of(model)}
        row += [_metric_text(figures[c]) if c in figures else "" for c in columns]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _result_columns(models: list[dict]) -> list[tuple[str, str, str]]:
    """Dataset, metric and source of each column, dataset by dataset."""
    figures = [figure for model in models for figure in figures_of(model)]
    columns = []
    for dataset in dict.fromkeys(figure.dataset for figure in figures):
        here = [figure for figure in figures if figure.dataset == dataset]
        for metric in dict.fromkeys(figure.metric for figure in here):
            alike = [figure for figure in here if figure.metric == metric]
            sources = dict.fromkeys(figure.source for figure in alike)
            published = [source for source in sources if source != MEASURED]
            if MEASURED in sources or any(figure.leading for figure in alike):
                published.append(MEASURED)
            columns += [(dataset, metric, source) for source in published]
    return columns


def _metric_text(value: float) -> str:
    """One decimal, or two where the second says something."""
    return f"{value:.2f}".removesuffix("0")


def update_readme(folder: str | Path, check: bool = False) -> bool:
    """Bring the zoo of a folder's README up to date with its metafile.

    Args:
        folder: Holds ``metafile.yml`` and ``README.md``; the latter has the two
            markers, ``BEGIN`` and ``END``, each on a line of its own.
        check: Leave the file as it is.

    Returns:
        Whether it was up to date before.

    Raises:
        UserError: If a file or a marker is missing, or the README cannot be written.
    """
    readme = Path(folder) / README
    tables = zoo_tables(read_metafile(Path(folder) / METAFILE), readme)
    try:
        text = readme.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{readme} cannot be read: {error.strerror}") from None
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise UserError(
            f"{readme} has no place for the zoo: it needs the lines {BEGIN!r} and "
            f"{END!r}, in this order"
        )
    new = f"{before}{BEGIN}\n\n{tables}\n\n{END}\n{after}"
    if new == text:
        return True
    if not check:
        partial = readme.with_name(f"{README}.partial")
        try:
            partial.write_text(new, encoding="utf-8")
            os.replace(partial, readme)
        except OSError as error:
            raise UserError(f"{readme} cannot be written: {error.strerror}") from None
        finally:
            partial.unlink(missing_ok=True)
    return False
