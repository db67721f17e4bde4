"""Checks of a config before anything is built: seconds instead of minutes to an error.

They look at paths and at names of classes, for every task library alike. Paths that are
not on a local disk are left to whoever reads them.
"""

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from focal_mm.checkpoint import read_checkpoint
from focal_mm.checkpoint.read import reads_training_state
from focal_mm.engine.classes import check_classes
from focal_mm.engine.config import type_name, walk
from focal_mm.engine.errors import UserError, speaks
from focal_mm.engine.libraries import LIBRARIES

# Transforms that need a package of their own, and the extra that installs it.
_INSTABOOST = "instaboostfast", "instaboost"
_TRANSFORM_PACKAGES = {"InstaBoost": _INSTABOOST, "ManyContoursInstaBoost": _INSTABOOST}
_LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
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
    loaders = _LOADERS[: 1 if cfg.get("val_cfg") is None else 2]
    _check_run(cfg, loaders, checkpoints_of_training(cfg))


def check_test(cfg: Config) -> None:
    """Check what testing is about to use.

    Raises:
        UserError: For the first thing that is missing.
    """
    _check_run(cfg, ["test_dataloader"], {"checkpoint": cfg.load_from})


def finish_check(checkpoints: Iterable[str]) -> None:
    """Read checkpoints, as the run itself would later, and say that all is well.

    Raises:
        CheckpointError: If one of them cannot be read.
    """
    for path in checkpoints:
        if reads_training_state() and not _is_remote(path):
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

    Args:
        key: The option or config key that names it.
        path: A local path or an address.

    Raises:
        UserError: If it is not there.
    """
    if not _is_remote(path) and not Path(path).expanduser().is_file():
        raise UserError(f"{key}: there is no checkpoint {path}{_looked_in(path)}")


def _check_run(
    cfg: Config, loaders: Iterable[str], checkpoints: dict[str, str]
) -> None:
    check_library(cfg)
    _check_work_dir(cfg.work_dir)
    for key, path in checkpoints.items():
        check_checkpoint(key, path)
    _check_transforms(cfg, loaders)
    _check_data(cfg, loaders)
    library = LIBRARIES.get(cfg.get("default_scope"))
    if library and library.dense:
        check_classes(cfg, _datasets(cfg, loaders))


def _check_work_dir(work_dir: str) -> None:
    path = Path(work_dir).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"work_dir {work_dir} cannot be made or written to ({existing} is in the "
            "way): choose another by --work-dir"
        )


def _check_transforms(cfg: Config, loaders: Iterable[str]) -> None:
    for name in loaders:
        for _, node in walk(cfg.get(name)):
            kind = type_name(node.get("type") or "")
            package, extra = _TRANSFORM_PACKAGES.get(kind, (None, None))
            if package and importlib.util.find_spec(package) is None:
                raise UserError(
                    f"{name} uses {kind}, and {package} is not installed: "
                    f"pip install 'focal_mm[{extra}]'"
                )


def _check_data(cfg: Config, loaders: Iterable[str]) -> None:
    needed = _needed_paths(cfg, loaders)
    missing = [need for need in needed if not _exists(cfg, need[0])]
    if missing:
        path, key, _ = missing[0]
        raise UserError(
            f"data not found: {key} is {path}{_looked_in(path)}{_layout(cfg, path)}; "
            "put or link the data there or change "
            f"{', '.join(dict.fromkeys(change for _, _, change in missing))}"
        )


def _exists(cfg: Config, path: str) -> bool:
    library = LIBRARIES.get(cfg.get("default_scope"))
    if library and library.expands_home:
        path = os.path.expanduser(path)
    return _is_remote(path) or os.path.exists(path)


def _is_remote(path: str) -> bool:
    """Whether a path names another store than the local disk, such as ``s3://``."""
    return "://" in path


def _looked_in(path: str) -> str:
    return "" if os.path.isabs(path) else f" (seen from {os.getcwd()})"


def _layout(cfg: Config, path: str) -> str:
    """What all data sets of the config expect under the data root of a path."""
    leaves = [leaf for _, leaf in _datasets(cfg, _LOADERS) if leaf.get("data_root")]
    roots = (leaf.data_root for leaf in leaves if path.startswith(leaf.data_root))
    root = next(roots, None)
    expected = [
        os.path.relpath(other, root) + ("" if field == "ann_file" else "/")
        for leaf in leaves
        if leaf.data_root == root
        for field, other in _joined_paths(leaf)
        if other != root
    ]
    if not expected:
        return ""
    return f"; expected under {root}: {', '.join(dict.fromkeys(expected))}"


def _datasets(cfg: Config, loaders: Iterable[str]) -> Iterator[tuple[str, dict]]:
    """Keys and configs of the data sets of some loaders."""
    for name in loaders:
        for key, node in walk(cfg.get(name), name):
            wraps = "dataset" in node or "datasets" in node
            if _PLACE_OF_DATASET.fullmatch(key) and not wraps:
                yield key, node


def _needed_paths(
    cfg: Config, loaders: Iterable[str]
) -> Iterator[tuple[str, str, str]]:
    """Paths of data sets and metrics, the keys that hold and those that move them."""
    for key, leaf in _datasets(cfg, loaders):
        if _reads_disk(leaf):
            for field, path in _joined_paths(leaf):
                change = "data_root" if leaf.get("data_root") else field
                yield path, f"{key}.{field}", f"{key}.{change}"
    for name in (loader.replace("dataloader", "evaluator") for loader in loaders):
        for key, metric in walk(cfg.get(name), name):
            if isinstance(metric.get("ann_file"), str) and _reads_disk(metric):
                yield metric["ann_file"], f"{key}.ann_file", f"{key}.ann_file"


def _reads_disk(node: dict) -> bool:
    """Whether a data set or metric reads its files from the local disk."""
    return (node.get("backend_args") or {}).get("backend", "local") == "local"


def _joined_paths(leaf: dict) -> Iterator[tuple[str, str]]:
    """Fields and paths of a data set, joined as MMEngine's BaseDataset joins them."""
    root = leaf.get("data_root") or ""
    fields = {"ann_file": leaf.get("ann_file")}
    prefix = leaf.get("data_prefix")
    if isinstance(prefix, dict):
        fields |= {f"data_prefix.{name}": value for name, value in prefix.items()}
    else:
        fields["data_prefix"] = prefix
    fields = {key: val for key, val in fields.items() if isinstance(val, str) and val}
    for field, value in fields.items():
        yield field, os.path.join(root, value)
    if root and not fields:
        yield "data_root", root
