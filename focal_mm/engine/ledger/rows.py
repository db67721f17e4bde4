"""The rows of the tables: names, figures, and what their configs ask for."""

import difflib
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config
from mmengine.config import utils as config_utils

from focal_mm.engine.config import describe
from focal_mm.engine.errors import UserError
from focal_mm.engine.ledger.metafile import MEASURED, Figure, figures_of, read_metafile

# For each base of another package MMEngine reads all of that package's metafiles again,
# which is nine tenths of the time that configs take.
config_utils.load = functools.cache(config_utils.load)

MULTI_SCALE = re.compile(r" ?\(ms\)$")
"""End of a metric's name that asks for test-time augmentation."""


@dataclass(frozen=True)
class Metric:
    """A metric of the tables, and where MMEngine's logs have it.

    Attributes:
        key: Its name in the logs.
        factor: By which the logs' value is multiplied to give per cent.
        task: As metafiles call it.
        dataset: What the configs evaluate it on, as metafiles call it.
    """

    key: str
    factor: int
    task: str
    dataset: str


def _coco(kind: str, key: str, task: str) -> dict[str, Metric]:
    parts = {"AP": "", "AP50": "_50", "AP75": "_75", "APS": "_s", "APM": "_m"}
    return {
        f"{kind} {name}": Metric(f"coco/{key}_mAP{end}", 100, task, "COCO")
        for name, end in (parts | {"APL": "_l"}).items()
    }


METRICS = {
    **_coco("box", "bbox", "Object Detection"),
    **_coco("mask", "segm", "Instance Segmentation"),
    "mIoU": Metric("mIoU", 1, "Semantic Segmentation", "ADE20K"),
    "mAcc": Metric("mAcc", 1, "Semantic Segmentation", "ADE20K"),
    "aAcc": Metric("aAcc", 1, "Semantic Segmentation", "ADE20K"),
    "Top-1": Metric("accuracy/top1", 1, "Image Classification", "ImageNet-1K"),
    "Top-5": Metric("accuracy/top5", 1, "Image Classification", "ImageNet-1K"),
}
"""By the names that metafiles give them; ``(ms)`` may follow."""
LEADING = ("box AP", "mask AP", "mIoU", "Top-1")
"""What is shown of a row that the paper does not have, and drawn as curves."""


@dataclass(frozen=True)
class Row:
    """An entry of a metafile.

    Attributes:
        name: Unique among all metafiles.
        config: Path of its config.
        metafile: Path of its metafile.
        collection: The heading under which it stands.
        published: The figures of its source, in the metafile's order; what other
            sources have, and what was measured, is not among them.
        tables: Where figures of it stand: ``table 3``, ``arXiv table 5``, ``figure 5``.
    """

    name: str
    config: Path
    metafile: Path
    collection: str
    published: tuple[Figure, ...]
    tables: frozenset[str]

    @property
    def compared(self) -> tuple[Figure, ...]:
        """The published figures that a test or COCO's server can tell."""
        return tuple(f for f in self.published if measurable(f) or on_server(f))

    @property
    def tests(self) -> tuple[bool, ...]:
        """Which tests its figures need: without and with test-time augmentation."""
        local = [f for f in self.published if measurable(f)]
        augmented = {bool(MULTI_SCALE.search(f.metric)) for f in local}
        return tuple(sorted(augmented)) or (False,)


@dataclass(frozen=True)
class Recipe:
    """What the ledger must know of a row's config.

    Attributes:
        pretraining: Name of the row whose checkpoint its backbone starts from, the
            address of public weights, or None.
        batch_size: Images a process.
        base_batch_size: Images a step for which the learning rate is meant.
        unit: ``epoch`` or ``iter``: how the training counts, and names checkpoints.
        length: How many of them it takes.
        tested: Whether the config has a test: ImageNet-22K has no validation set.
        smoke: Whether it is a row made small.
    """

    pretraining: str | None
    batch_size: int
    base_batch_size: int
    unit: str
    length: int
    tested: bool
    smoke: bool

    @property
    def gpus(self) -> int:
        """How many GPUs make up the batch."""
        return max(1, self.base_batch_size // self.batch_size)

    @property
    def last_checkpoint(self) -> str:
        """File name of the checkpoint at the end."""
        return f"{self.unit}_{self.length}.pth"


def on_server(figure: Figure) -> bool:
    """Whether a figure is one of COCO's evaluation server."""
    return figure.dataset == "COCO test-dev"


def measurable(figure: Figure) -> bool:
    """Whether a row's own test measures a figure."""
    metric = METRICS.get(MULTI_SCALE.sub("", figure.metric))
    return metric is not None and metric.dataset == figure.dataset


def read_rows(root: Path) -> list[Row]:
    """All rows of the metafiles that ``model-index.yml`` names.

    Args:
        root: Holds ``model-index.yml``; paths in it and in metafiles start here.

    Raises:
        UserError: If a file is missing or in another format.
    """
    rows = []
    index = root / "model-index.yml"
    try:
        for name in yaml.safe_load(index.read_text())["Import"]:
            index = root / name
            rows += [
                _row(model, root, index) for model in read_metafile(index)["Models"]
            ]
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"no rows from {index}: {describe(error)}") from None
    return rows


def _row(model: dict[str, Any], root: Path, metafile: Path) -> Row:
    source = model["Metadata"]["Source"]
    figures = [f for f in figures_of(model) if f.source != MEASURED]
    places = (place for figure in figures for place in figure.reference.split("; "))
    return Row(
        name=model["Name"],
        config=root / model["Config"],
        metafile=metafile,
        collection=model["In Collection"],
        published=tuple(figure for figure in figures if figure.source == source),
        tables=frozenset(p for p in places if re.search("(table|figure) [0-9]", p)),
    )


def select(rows: Sequence[Row], names: Iterable[str]) -> list[Row]:
    """The rows that names of rows and tables stand for, in the rows' order.

    ``table3``, ``3`` and ``"table 3"`` are the same; so are ``arxiv5`` and ``"arXiv
    version, table 5"``.

    Args:
        rows: All there are.
        names: Nothing stands for all.

    Raises:
        UserError: For names of nothing; has the nearest ones.
    """
    meanings: dict[str, set[str]] = defaultdict(set)
    tables = {}
    for row in rows:
        meanings[row.name].add(row.name)
        for table in row.tables:
            tables[_spelt(table)] = table
            meanings[_spelt(table)].add(row.name)
    chosen, errors = set(), []
    for name in names:
        found = meanings.get(name) or meanings.get(_spelt(name))
        if found:
            chosen |= found
        else:
            words = [*(row.name for row in rows), *sorted(tables.values())]
            near = difflib.get_close_matches(name, words, n=3, cutoff=0.5)
            hint = f": did you mean {', '.join(near)}?" if near else ""
            errors.append(f"there is no row or table {name!r}{hint}")
    if errors:
        raise UserError("; ".join(errors))
    return [row for row in rows if not chosen or row.name in chosen]


def _spelt(table: str) -> str:
    """What all spellings of a table have in common: ``arxiv5``."""
    return re.sub(r"version|table|[^a-z0-9]", "", table.lower())


@functools.cache
def read_recipe(config: Path) -> Recipe:
    """Read the recipe of a config, once.

    Raises:
        UserError: If the config cannot be read or does not tell.
    """
    if not config.is_file():
        raise UserError(f"there is no config file {config}")
    try:
        cfg = Config.fromfile(config, import_custom_modules=False)
        unit = "epoch" if "max_epochs" in cfg.train_cfg else "iter"
        batch_size = cfg.train_dataloader.batch_size
        return Recipe(
            pretraining=cfg.get("pretraining"),
            batch_size=batch_size,
            base_batch_size=cfg.get("auto_scale_lr", {}).get(
                "base_batch_size", batch_size
            ),
            unit=unit,
            length=cfg.train_cfg[f"max_{unit}s"],
            tested=bool(cfg.get("test_dataloader")),
            smoke=cfg.get("smoke", False),
        )
    except Exception as error:
        # Whatever its code raises, it is the config that must be changed.
        raise UserError(f"{config} has no recipe: {describe(error)}") from error
