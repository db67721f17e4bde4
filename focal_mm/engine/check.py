"""Checks of a config before anything is built: seconds instead of minutes to an error.

They look at paths and at names of classes, for every task library alike. Paths that are
not on a local disk are left to whoever reads them.
"""

import importlib.util
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device
from mmengine.fileio import list_from_file
from mmengine.registry import DATASETS

from focal_mm.checkpoint import read_checkpoint
from focal_mm.engine.config import type_name, walk
from focal_mm.engine.errors import UserError, speaks
from focal_mm.engine.libraries import LIBRARIES

# Where a loader holds its data sets, within whatever wraps them.
_PLACE_OF_DATASET = re.compile(r"\w+(\.datasets?|\.\d+)*")
# What learns something else than the classes of the data set: objects against
# background, the stuff of a second annotation, a pretrained backbone's own classes.
_OTHER_CLASSES = {"rpn_head", "semantic_head", "backbone"}


def check_train(cfg: Config) -> None:
    """Check what training is about to use.

    Raises:
        UserError: For the first thing that is missing.
    """
    kind = cfg.get("optim_wrapper", {}).get("type", "OptimWrapper")
    if type_name(kind) == "AmpOptimWrapper" and get_device() in ("cpu", "mps"):
        raise UserError(
            "mixed precision needs a GPU, and none is visible: leave --amp out, or set "
            "optim_wrapper.type=OptimWrapper"
        )
    splits = ("train", "val") if cfg.get("val_cfg") else ("train",)
    _check_run(cfg, splits, checkpoints_of_training(cfg))


def check_test(cfg: Config) -> None:
    """Check what testing is about to use.

    Raises:
        UserError: For the first thing that is missing.
    """
    _check_run(cfg, ["test"], {"checkpoint": cfg.load_from})


def finish_check(checkpoints: Iterable[str]) -> None:
    """Read checkpoints, as the run itself would later, and say that all is well.

    Raises:
        focal_mm.checkpoint.CheckpointError: If one of them cannot be read.
    """
    for path in checkpoints:
        if not _is_remote(path):
            read_checkpoint(path)
    if speaks():
        print("arguments, config, data and checkpoints are in order")


def checkpoints_of_training(cfg: Config) -> dict[str, str]:
    """Paths, by config key, of the checkpoints that a training run starts from."""
    found = {}
    if cfg.get("load_from"):
        found["--resume" if cfg.get("resume") else "load_from"] = cfg.load_from
    # A resumed model is not initialised by anything else that matters.
    if not cfg.get("resume"):
        for key, node in walk(cfg.model, "model"):
            if "init_cfg" in key and isinstance(node.get("checkpoint"), str):
                found[f"{key}.checkpoint"] = node["checkpoint"]
    return found


def check_library(cfg: Config) -> None:
    """Check that the config's task library is installed.

    Raises:
        UserError: If not.
    """
    library = LIBRARIES.get(cfg.get("default_scope"))
    if library and importlib.util.find_spec(library.scope) is None:
        raise UserError(
            f"the config's default_scope is {library.scope}, which is not installed: "
            f"pip install 'focal_mm[{library.extra}]'"
        )


def check_checkpoint(key: str, path: str) -> None:
    """Check that a checkpoint is there, unless it is remote.

    Raises:
        UserError: If it is not there; names its path and the key that holds it.
    """
    if not _is_remote(path) and not Path(path).expanduser().is_file():
        raise UserError(f"{key}: there is no checkpoint {path}{_looked_in(path)}")


def _check_run(cfg: Config, splits: Iterable[str], checkpoints: dict[str, str]) -> None:
    check_library(cfg)
    _check_work_dir(cfg.work_dir)
    for key, path in checkpoints.items():
        check_checkpoint(key, path)
    _check_transforms(cfg, splits)
    _check_data(cfg, splits)
    library = LIBRARIES.get(cfg.get("default_scope"))
    if library and library.dense:
        check_classes(cfg, _datasets(cfg, splits))


def _check_work_dir(work_dir: str) -> None:
    path = Path(work_dir).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"work_dir {work_dir} cannot be made or written to ({existing} is in the "
            "way): choose another by --work-dir"
        )


def _check_transforms(cfg: Config, splits: Iterable[str]) -> None:
    if importlib.util.find_spec("instaboostfast"):
        return
    for name in (f"{split}_dataloader" for split in splits):
        for _, node in walk(cfg.get(name)):
            kind = type_name(node.get("type") or "")
            if kind in ("InstaBoost", "ManyContoursInstaBoost"):
                raise UserError(
                    f"{name} uses {kind}, and instaboostfast is not installed: "
                    "pip install 'focal_mm[instaboost]'"
                )


def _check_data(cfg: Config, splits: Iterable[str]) -> None:
    needed = _needed_paths(cfg, splits)
    missing = [need for need in needed if not _exists(need[0])]
    if missing:
        paths = ", ".join(dict.fromkeys(path for path, _ in missing))
        keys = ", ".join(dict.fromkeys(key for _, key in missing))
        raise UserError(
            f"data not found: {paths}{_looked_in(paths)}; put or link the data there "
            f"or change {keys}"
        )


def _exists(path: str) -> bool:
    # mmpretrain's data sets read ~/data.
    return _is_remote(path) or os.path.exists(os.path.expanduser(path))


def _is_remote(path: str) -> bool:
    """Whether a path names another store than the local disk, such as ``s3://``."""
    return "://" in path


def _looked_in(path: str) -> str:
    return "" if os.path.isabs(path) else f" (seen from {os.getcwd()})"


def _datasets(cfg: Config, splits: Iterable[str]) -> Iterator[tuple[str, dict]]:
    """Keys and configs of the data sets of some loaders."""
    for name in (f"{split}_dataloader" for split in splits):
        for key, node in walk(cfg.get(name), name):
            wraps = "dataset" in node or "datasets" in node
            if _PLACE_OF_DATASET.fullmatch(key) and not wraps:
                yield key, node


def _needed_paths(cfg: Config, splits: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Local paths of data sets and metrics, and the keys that move them."""
    for key, leaf in _datasets(cfg, splits):
        if _reads_disk(leaf):
            yield from _joined_paths(key, leaf)
    for name in (f"{split}_evaluator" for split in splits):
        for key, metric in walk(cfg.get(name), name):
            if isinstance(metric.get("ann_file"), str) and _reads_disk(metric):
                yield metric["ann_file"], f"{key}.ann_file"


def _reads_disk(node: dict) -> bool:
    """Whether a data set or metric reads its files from the local disk."""
    return (node.get("backend_args") or {}).get("backend", "local") == "local"


def _joined_paths(key: str, leaf: dict) -> Iterator[tuple[str, str]]:
    """Paths of a data set, joined as MMEngine's BaseDataset joins them, and keys."""
    root, prefix = leaf.get("data_root") or "", leaf.get("data_prefix")
    fields = {"ann_file": leaf.get("ann_file")}
    if isinstance(prefix, dict):
        fields |= {f"data_prefix.{name}": value for name, value in prefix.items()}
    else:
        fields["data_prefix"] = prefix
    fields = {name: val for name, val in fields.items() if isinstance(val, str) and val}
    if root and not fields:
        yield root, f"{key}.data_root"
    for field, value in fields.items():
        yield os.path.join(root, value), f"{key}.{'data_root' if root else field}"


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
