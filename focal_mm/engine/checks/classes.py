"""The classes of data sets against each other and against a model's heads."""

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS

from focal_mm.engine.config import walk
from focal_mm.engine.errors import UserError

# What learns something else than the classes of the data set: objects against
# background, the stuff of a second annotation, a pretrained backbone's own classes.
_OTHER_CLASSES = {"rpn_head", "semantic_head", "backbone"}


def check_classes(cfg: Config, datasets: Iterable[tuple[str, dict]]) -> None:
    """Compare the classes of data sets with each other and with a model's heads.

    Where they differ, a run fails late, or not at all and classes are never learned.
    Classes are those of ``metainfo``, or those that the data set's type is made for.

    Args:
        cfg: The config of a run.
        datasets: Config key and config of each of its data sets.

    Raises:
        UserError: If the classes of two data sets differ, or a head is made for another
            number; the line holds the ``--cfg-options`` that change it.
    """
    # Heads of open-vocabulary detectors count words.
    if "language_model" in cfg.model:
        return
    datasets = dict(datasets)
    known = {key: _classes(cfg, leaf) for key, leaf in datasets.items()}
    known = {key: classes for key, classes in known.items() if classes is not None}
    if not known:
        return
    # What somebody wrote down goes before what a type brings along.
    written = {key: _written(datasets[key]) for key in known}
    reference = next((key for key in known if written[key]), next(iter(known)))
    others = [key for key in known if known[key] != known[reference]]
    if others:
        value = _option_value(written[reference], known[reference])
        raise UserError(
            f"{others[0]} has other classes than {reference}: "
            f"{_options({f'{key}.metainfo.classes': value for key in others})}"
        )
    number = len(known[reference])
    heads = class_numbers(cfg.model.get("module", cfg.model))
    wrong = {key: found for key, found in heads.items() if found != number}
    if wrong:
        found = ", ".join(str(value) for value in sorted(set(wrong.values())))
        raise UserError(
            f"{reference} has {number} classes, but heads of the model are made for "
            f"{found}: {_options(dict.fromkeys(wrong, number))}"
        )


def class_numbers(model: dict) -> dict[str, int]:
    """The ``num_classes`` of a model's heads, by config key.

    Left out is what learns something else than the classes of the data set.
    """
    return {
        f"{key}.num_classes": node["num_classes"]
        for key, node in walk(model, "model")
        if isinstance(node.get("num_classes"), int)
        and not _OTHER_CLASSES & set(key.split("."))
    }


def _written(dataset: dict) -> Any:
    """Class names, or the name of a file of them, in a data set's config."""
    return (dataset.get("metainfo") or {}).get("classes")


def _classes(cfg: Config, dataset: dict) -> Sequence[str] | None:
    """Class names of a data set, or None where only its files could tell."""
    classes = _written(dataset)
    if classes is None:
        kind = dataset.get("type")
        if isinstance(kind, str):
            with DATASETS.switch_scope_and_registry(cfg.default_scope) as registry:
                kind = registry.get(kind)
        classes = getattr(kind, "METAINFO", {}).get("classes")
    if isinstance(classes, str):
        # MMEngine takes the name of a file with one class per line.
        classes = list_from_file(classes) if os.path.isfile(classes) else None
    return None if classes is None else tuple(classes)


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
