"""Checks of a config before anything is built: what is missing, by path and by name.

Paths that are not on a local disk are left to whoever reads them.
"""

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from focal_mm.checkpoint import read_checkpoint
from focal_mm.engine.checks.classes import check_classes
from focal_mm.engine.config import type_name, walk
from focal_mm.engine.errors import UserError, speaks
from focal_mm.engine.libraries import LIBRARIES

# Where a loader holds its data sets, within whatever wraps them.
_PLACE_OF_DATASET = re.compile(r"\w+(\.datasets?|\.\d+)*")


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
