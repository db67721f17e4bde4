"""Metafiles: the rows of the tables and their figures, in model-index format.

The format is https://github.com/paperswithcode/model-index with two more keys:
``Metadata.Source`` of a model and ``Source`` of an entry of its ``Results`` say whose
figures these are, ``paper`` or, for this project's own, ``measured``.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

METAFILE = "metafile.yml"
MEASURED = "measured"


class Figure(NamedTuple):
    """One number of a model.

    Attributes:
        dataset: What it was measured on.
        metric: Its name there.
        source: Who says so; ``MEASURED`` is this project.
        value: The number.
        leading: Whether its entry names it first: such a metric is measured first.
        reference: Where its source says so, places being separated by ``"; "``.
    """

    dataset: str
    metric: str
    source: str
    value: float
    leading: bool
    reference: str = ""


def read_metafile(path: str | Path) -> dict[str, Any]:
    """The ``Collections`` and ``Models`` of a metafile."""
    return yaml.safe_load(Path(path).read_text(encoding="utf-8"))


def figures_of(model: dict[str, Any]) -> Iterator[Figure]:
    """All results of an entry of ``Models``, in the metafile's order."""
    for entry in model.get("Results") or []:
        source = entry.get("Source", model["Metadata"]["Source"])
        reference = entry.get("Reference", "")
        for index, (metric, value) in enumerate(entry["Metrics"].items()):
            leading = not index
            yield Figure(entry["Dataset"], metric, source, value, leading, reference)
