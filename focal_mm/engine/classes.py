"""Do the heads of a model predict as many classes as its data has?

Where they do not, a run fails late (on a GPU with an index out of range) or not at
all, and classes are never learned.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS

from focal_mm.engine.errors import UserError

_SCOPES = ("mmdet", "mmseg")
# What learns something else than the classes of the data set: objects against
# background, the stuff of a second annotation, a pretrained backbone's own classes.
_OTHER_CLASSES = ("rpn_head", "semantic_head", "backbone")


def check_classes(cfg: Config, datasets: Iterable[tuple[str, dict]]) -> None:
    """Compare the classes of data sets with each other and with a model's heads.

    Classes are those of ``metainfo``, or those that the data set's type is made for.
    Only detectors and segmentors are checked, whose heads must know their number.

    Args:
        cfg: The config of a run.
        datasets: Config key and config of each of its data sets.

    Raises:
        UserError: If the classes of two data sets differ, or a head is made for another
            number; the line holds the ``--cfg-options`` that change it.
    """
    # Heads of open-vocabulary detectors count words.
    if cfg.get("default_scope") not in _SCOPES or "language_model" in cfg.model:
        return
    datasets = list(datasets)
    known = {key: _classes(cfg, leaf) for key, leaf in datasets}
    known = {key: classes for key, classes in known.items() if classes is not None}
    if not known:
        return
    # What somebody wrote down goes before what a type brings along.
    written = {key: leaf.metainfo.classes for key, leaf in datasets if _writes(leaf)}
    reference = next((key for key in known if key in written), next(iter(known)))
    others = [key for key in known if known[key] != known[reference]]
    if others:
        value = _option_value(written.get(reference), known[reference])
        raise UserError(
            f"{others[0]} has other classes than {reference}: "
            f"{_options({f'{key}.metainfo.classes': value for key in others})}"
        )
    number = len(known[reference])
    heads = dict(_heads(cfg.model.get("module", cfg.model), "model"))
    wrong = {key: found for key, found in heads.items() if found != number}
    if wrong:
        found = ", ".join(str(value) for value in sorted(set(wrong.values())))
        raise UserError(
            f"{reference} has {number} classes, but heads of the model are made for "
            f"{found}: {_options(dict.fromkeys(wrong, number))}"
        )


def _writes(dataset: dict) -> bool:
    return "classes" in (dataset.get("metainfo") or {})


def _classes(cfg: Config, dataset: dict) -> Sequence[str] | None:
    """Class names of a data set, or None where only its files could tell."""
    if _writes(dataset):
        classes = dataset.metainfo.classes
    else:
        kind = dataset.get("type")
        if isinstance(kind, str):
            with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
                kind = registry.get(kind)
        classes = getattr(kind, "METAINFO", {}).get("classes")
    if isinstance(classes, str):
        # MMEngine takes the name of a file with one class per line.
        classes = list_from_file(classes) if os.path.isfile(classes) else None
    return None if classes is None else tuple(classes)


def _heads(node: Any, key: str) -> Iterator[tuple[str, int]]:
    """Keys and values of all ``num_classes`` that must be the data set's."""
    if isinstance(node, dict):
        if isinstance(node.get("num_classes"), int):
            yield f"{key}.num_classes", node["num_classes"]
        for name, child in node.items():
            if name not in _OTHER_CLASSES:
                yield from _heads(child, f"{key}.{name}")
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _heads(child, f"{key}.{index}")


def _option_value(written: Any, classes: Sequence[str]) -> str:
    """Classes as ``--cfg-options`` takes them, which loses spaces and turns numbers."""
    if isinstance(written, str):
        return written
    if all(re.fullmatch(r"[A-Za-z_][\w-]*", name) for name in classes):
        return f"[{','.join(classes)}]"
    return "FILE_WITH_A_CLASS_PER_LINE"


def _options(values: dict[str, Any]) -> str:
    """The command line's way to set some keys, quoted for the shell."""
    pairs = (shlex.quote(f"{key}={value}") for key, value in values.items())
    return f"add --cfg-options {' '.join(pairs)}"
