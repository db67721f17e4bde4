"""Write the model zoo of a README from the metafile beside it.

python tools/model_zoo.py configs/det            # updates configs/det/README.md

Run it from the root of the repository: a metafile's config paths start there. The tests
say if a README is out of date.

A metafile is in model-index format (https://github.com/paperswithcode/model-index)
with two more keys:

- ``Metadata.Source`` of a model says whose ``Parameters``, ``FLOPs`` and results these
  are: ``paper``, say, or ``measured`` for this project's own.
- ``Source`` of an entry of ``Results`` says so of that entry, where it differs. Thus a
  figure of this project is added to a row of the paper as one more entry, of the same
  task, dataset and metrics, with ``Source: measured``.

Nothing else is particular to a task: metrics are whatever the entries name.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from focal_mm.engine.config import describe
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.files import replacing
from focal_mm.engine.ledger.metafile import (
    MEASURED,
    METAFILE,
    figures_of,
    read_metafile,
)
from focal_mm.engine.options import Parser

README = "README.md"
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


def zoo_tables(metafile: dict[str, Any], folder: Path) -> str:
    """The tables of a metafile in Markdown, one per collection.

    A column holds one metric of one dataset from one source. A figure that is leading
    in its entry has a measured column beside it, empty until measured; others have it
    once any of the table is measured.

    Args:
        metafile: As ``read_metafile`` returns it; its config paths are relative to the
            working directory.
        folder: Links are relative to it.

    Returns:
        Headings and tables, without a newline at the end.

    Raises:
        KeyError, TypeError, ValueError: If it is not in the format above.
    """
    models = {collection["Name"]: [] for collection in metafile["Collections"]}
    for model in metafile["Models"]:
        models[model["In Collection"]].append(model)
    parts = []
    for collection in metafile["Collections"]:
        name, paper = collection["Name"], collection.get("Paper")
        if models[name]:
            title = f"[{name}]({paper['URL']})" if paper else name
            parts += [f"### {title}", _table(models[name], folder)]
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
        texts = {column: _text(value) for column, value in figures.items()}
        row += [texts.get(column, "") for column in columns]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _text(value: float) -> str:
    """Whole, or with one decimal, or two where the second says something."""
    return str(value) if isinstance(value, int) else f"{value:.2f}".removesuffix("0")


def _result_columns(models: list[dict]) -> list[tuple[str, str, str]]:
    """Dataset, metric and source of each column, dataset by dataset.

    The model with the most figures decides on the order.
    """
    by_model = [list(figures_of(model)) for model in models]
    figures = list(chain.from_iterable(sorted(by_model, key=len, reverse=True)))
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


def update_readme(folder: Path, check: bool = False) -> bool:
    """Bring the zoo of a folder's README up to date with its metafile.

    Args:
        folder: Holds ``metafile.yml`` and ``README.md``; the latter has the two
            markers, ``BEGIN`` and ``END``, each on a line of its own.
        check: Leave the file as it is.

    Returns:
        Whether it was up to date before.

    Raises:
        UserError: If a file or a marker is missing, the metafile is not in its format,
            or the README cannot be written.
    """
    metafile, readme = folder / METAFILE, folder / README
    try:
        tables = zoo_tables(read_metafile(metafile), folder)
        text = readme.read_text(encoding="utf-8")
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        # Of a file that cannot be read, or of a metafile in another format.
        raise UserError(f"no zoo from {metafile}: {describe(error)}") from None
    before, begin, rest = text.partition(f"{BEGIN}\n")
    _, end, after = rest.partition(f"{END}\n")
    if not begin or not end:
        raise UserError(
            f"{readme} has no place for the zoo: it needs the lines {BEGIN!r} and "
            f"{END!r}, in this order"
        )
    new = f"{before}{BEGIN}\n\n{tables}\n\n{END}\n{after}"
    if new != text and not check:
        with replacing(readme) as partial:
            partial.write_text(new, encoding="utf-8")
    return new == text


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help=f"holds {METAFILE} and {README}")
    folder = parser.parse_args(argv).folder

    def run() -> None:
        print("up to date" if update_readme(folder) else f"written: {folder}")

    return run_guarded(parser.prog, run)


if __name__ == "__main__":
    sys.exit(main())
