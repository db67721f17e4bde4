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

from focal_mm.engine.checks.classes import check_classes
from focal_mm.engine.checks.data import check_data, raise_errors
from focal_mm.engine.checks.explain import explained
from focal_mm.engine.checks.model import check_model
from focal_mm.engine.config import KEYS, type_name, walk
from focal_mm.engine.errors import UserError, speaks
from focal_mm.engine.libraries import LIBRARIES

# Where a loader holds its data sets, within whatever wraps them.
_PLACE_OF_DATASET = re.compile(r"\w+(\.datasets?|\.\d+)*")
# Of loops, loaders and hooks. An interval of -1 is never, and said so.
_COUNTS = {"max_epochs", "max_iters", "val_interval", "interval", "batch_size"}


def check_train(cfg: Config, data: bool = True) -> list[str]:
    """Check what training is about to use.

    Args:
        cfg: The config of a run.
        data: Whether the files of the data sets are read too.

    Returns:
        Lines for the log, of what the library leaves out of the data.

    Raises:
        UserError: For the first thing that is missing or wrong.
    """
    kind = (cfg.get("optim_wrapper") or {}).get("type", "OptimWrapper")
    if type_name(kind) == "AmpOptimWrapper" and get_device() in ("cpu", "mps"):
        raise UserError(
            "mixed precision needs a GPU, and none is visible: leave --amp out, or set "
            "optim_wrapper.type=OptimWrapper"
        )
    splits = ("train", "val") if cfg.get("val_cfg") else ("train",)
    with explained(cfg):
        return _check_run(cfg, splits, checkpoints_of_training(cfg), data)


def check_test(cfg: Config, data: bool = True) -> list[str]:
    """Check what testing is about to use; as :func:`check_train`.

    Raises:
        UserError: For the first thing that is missing or wrong.
    """
    with explained(cfg):
        return _check_run(cfg, ["test"], {"checkpoint": cfg.load_from}, data)


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
    scope = cfg.get("default_scope")
    if scope and importlib.util.find_spec(scope) is None:
        library = LIBRARIES.get(scope)
        what = f"pip install 'focal_mm[{library.extra}]'" if library else "misspelt?"
        raise UserError(
            f"the config's default_scope is {scope}, which is not installed: {what}"
        )


def check_checkpoint(key: str, path: str) -> None:
    """Check that a checkpoint is there, unless it is remote.

    Raises:
        UserError: If it is not there; names its path and the key that holds it.
    """
    if not _is_remote(path) and not Path(path).expanduser().is_file():
        raise UserError(f"{key}: there is no checkpoint {path}{_looked_in(path)}")


def _check_run(
    cfg: Config, splits: Iterable[str], checkpoints: dict[str, str], data: bool
) -> list[str]:
    check_library(cfg)
    _check_counts(cfg)
    _check_work_dir(cfg.work_dir)
    for key, path in checkpoints.items():
        check_checkpoint(key, path)
    _check_transforms(cfg, splits)
    check_paths(cfg, splits)
    library = LIBRARIES.get(cfg.get("default_scope"))
    if library and library.dense:
        check_classes(cfg, _datasets(cfg, splits))
    # Once for all processes on a machine.
    if not speaks():
        return []
    check_model(cfg)
    return raise_errors(check_data(cfg, local_datasets(cfg, splits))) if data else []


def _check_counts(cfg: Config) -> None:
    """MMEngine takes 0 for never, or divides by it."""
    parts = {name: part for name, part in cfg.items() if name in KEYS}
    for key, node in walk(parts):
        for name in _COUNTS & set(node):
            value = node[name]
            if not isinstance(value, int) or value == 0 or value < -1:
                raise UserError(
                    f"{key}.{name} must be a whole number above 0, got {value!r}"
                )


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


def check_paths(cfg: Config, splits: Iterable[str]) -> None:
    """Check that the files and folders of data sets and metrics are there.

    Raises:
        UserError: If not; names them and the keys that move them.
    """
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


def local_datasets(cfg: Config, splits: Iterable[str]) -> list[tuple[str, dict]]:
    """Keys and configs of the data sets of some loaders whose files are on a disk."""
    return [(key, leaf) for key, leaf in _datasets(cfg, splits) if _reads_disk(leaf)]


def _needed_paths(cfg: Config, splits: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Local paths of data sets and metrics, and the keys that move them."""
    for key, leaf in local_datasets(cfg, splits):
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
