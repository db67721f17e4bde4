"""Checks of a config before anything is built: seconds instead of minutes to an error.

They look at paths and at names of classes, for every task library alike. Paths that are
not on a local disk are left to whoever reads them.
"""

import importlib.util
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.device import get_device

from focal_mm.engine.classes import check_classes
from focal_mm.engine.errors import UserError
from focal_mm.engine.launch import dicts_within, type_name

# The task libraries, and the extra that installs each.
_EXTRAS = {"mmdet": "det", "mmseg": "seg", "mmpretrain": "cls"}
# Transforms that need a package of their own, and the extra that installs it.
_INSTABOOST = "instaboostfast", "instaboost"
_TRANSFORM_PACKAGES = {"InstaBoost": _INSTABOOST, "ManyContoursInstaBoost": _INSTABOOST}


@dataclass(frozen=True)
class _Need:
    """A path that the config needs.

    Attributes:
        path: As the config gives it, the data root included.
        key: The config key that holds it.
        change: The config key with which to move it elsewhere.
    """

    path: str
    key: str
    change: str

    @property
    def missing(self) -> bool:
        return not is_remote(self.path) and not os.path.exists(self.path)


def check_train(cfg: Config) -> None:
    """Check what ``tools/train.py`` is about to use.

    Raises:
        UserError: For the first thing that is missing.
    """
    _check_library(cfg)
    _check_amp(cfg)
    _check_work_dir(cfg.work_dir)
    _check_checkpoints(checkpoints_of_training(cfg))
    loaders = ["train_dataloader"]
    if cfg.get("val_cfg") is not None:
        loaders += ["val_dataloader"]
    _check_transforms(cfg, loaders)
    _check_data(cfg, loaders)
    check_classes(cfg, _datasets(cfg, loaders))


def check_test(cfg: Config) -> None:
    """Check what ``tools/test.py`` is about to use.

    Raises:
        UserError: For the first thing that is missing.
    """
    _check_library(cfg)
    _check_work_dir(cfg.work_dir)
    _check_checkpoints([("checkpoint", cfg.load_from)])
    _check_transforms(cfg, ["test_dataloader"])
    _check_data(cfg, ["test_dataloader"])
    check_classes(cfg, _datasets(cfg, ["test_dataloader"]))


def check_inference(cfg: Config, checkpoint: str) -> None:
    """Check what ``tools/image_demo.py`` is about to use.

    Raises:
        UserError: For the first thing that is missing.
    """
    _check_library(cfg)
    _check_checkpoints([("--checkpoint", checkpoint)])


def is_remote(path: str) -> bool:
    """Whether a path names another store than the local disk, such as ``s3://``."""
    return "://" in path


def checkpoints_of_training(cfg: Config) -> list[tuple[str, str]]:
    """Config keys and paths of the checkpoints that a training run starts from."""
    found = []
    if cfg.get("load_from"):
        found.append(("--resume" if cfg.get("resume") else "load_from", cfg.load_from))
    # A resumed model is not initialised by anything else that matters.
    return found if cfg.get("resume") else found + list(_pretrained(cfg.model, "model"))


def _pretrained(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        if isinstance(node.get("checkpoint"), str) and "init_cfg" in key:
            yield f"{key}.checkpoint", node["checkpoint"]
        for name, child in node.items():
            yield from _pretrained(child, f"{key}.{name}")
    elif isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _pretrained(child, f"{key}.{index}")


def _check_library(cfg: Config) -> None:
    scope = cfg.get("default_scope")
    if scope in _EXTRAS and importlib.util.find_spec(scope) is None:
        raise UserError(
            f"the config's default_scope is {scope}, which is not installed: "
            f"pip install 'focal_mm[{_EXTRAS[scope]}]'"
        )


def _check_transforms(cfg: Config, loaders: list[str]) -> None:
    for name in loaders:
        for node in dicts_within(cfg.get(name)):
            kind = type_name(node.get("type") or "")
            package, extra = _TRANSFORM_PACKAGES.get(kind, (None, None))
            if package and importlib.util.find_spec(package) is None:
                raise UserError(
                    f"{name} uses {kind}, and {package} is not installed: "
                    f"pip install 'focal_mm[{extra}]'"
                )


def _check_amp(cfg: Config) -> None:
    kind = cfg.get("optim_wrapper", {}).get("type", "OptimWrapper")
    if type_name(kind) == "AmpOptimWrapper" and get_device() in ("cpu", "mps"):
        raise UserError(
            "mixed precision needs a GPU, and none is visible: leave --amp out, or set "
            "optim_wrapper.type=OptimWrapper"
        )


def _check_work_dir(work_dir: str) -> None:
    path = Path(work_dir).absolute()
    existing = next(p for p in (path, *path.parents) if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(
            f"work_dir {work_dir} cannot be made or written to ({existing} is in the "
            "way): choose another by --work-dir"
        )


def _check_checkpoints(checkpoints: Iterable[tuple[str, str]]) -> None:
    for key, path in checkpoints:
        if not is_remote(path) and not Path(path).expanduser().is_file():
            raise UserError(f"{key}: there is no checkpoint {path}{_looked_in(path)}")


def _check_data(cfg: Config, loaders: list[str]) -> None:
    needs = [need for name in loaders for need in _needs_of_loader(cfg, name)]
    for name in loaders:
        needs += _needs_of_evaluator(cfg, name.replace("dataloader", "evaluator"))
    missing = [need for need in needs if need.missing]
    if not missing:
        return
    first = missing[0]
    changes = dict.fromkeys(need.change for need in missing)
    raise UserError(
        f"data not found: {first.key} is {first.path}{_looked_in(first.path)}"
        f"{_layout(cfg, first)}; put or link the data there or change "
        f"{', '.join(changes)}"
    )


def _looked_in(path: str) -> str:
    return "" if os.path.isabs(path) else f" (seen from {os.getcwd()})"


def _layout(cfg: Config, need: _Need) -> str:
    """What all data sets of the config expect under the data root of one of them."""
    names = ("train_dataloader", "val_dataloader", "test_dataloader")
    leaves = list(_datasets(cfg, names))
    roots = {leaf.get("data_root") for _, leaf in leaves} - {None, ""}
    root = next((r for r in roots if need.path.startswith(r)), None)
    if root is None:
        return ""
    paths = [
        os.path.relpath(path, root) + ("" if field == "ann_file" else "/")
        for _, leaf in leaves
        if leaf.get("data_root") == root
        for field, path in _paths(leaf)
        if path != root
    ]
    if not paths:
        return ""
    return f"; expected under {root}: {', '.join(dict.fromkeys(paths))}"


def _needs_of_loader(cfg: Config, name: str) -> Iterator[_Need]:
    for key, leaf in _leaves(cfg.get(name), name):
        if not _is_local(leaf):
            continue
        for field, path in _paths(leaf):
            if cfg.get("default_scope") == "mmpretrain":
                path = os.path.expanduser(path)
            change = "data_root" if leaf.get("data_root") else field
            yield _Need(path, f"{key}.{field}", f"{key}.{change}")


def _needs_of_evaluator(cfg: Config, name: str) -> Iterator[_Need]:
    """The annotation files that metrics read themselves."""
    metrics, key = cfg.get(name), name
    if isinstance(metrics, dict) and "metrics" in metrics:
        metrics, key = metrics["metrics"], f"{name}.metrics"
    many = isinstance(metrics, (list, tuple))
    for index, metric in enumerate(metrics if many else [metrics]):
        place = f"{key}.{index}" if many else key
        path = metric.get("ann_file") if isinstance(metric, dict) else None
        if isinstance(path, str) and _is_local(metric):
            yield _Need(path, f"{place}.ann_file", f"{place}.ann_file")


def _is_local(node: dict) -> bool:
    """Whether a data set or metric reads its files from the disk."""
    return (node.get("backend_args") or {}).get("backend", "local") == "local"


def _datasets(cfg: Config, loaders: Iterable[str]) -> Iterator[tuple[str, dict]]:
    """Keys and configs of the data sets of some loaders."""
    for name in loaders:
        yield from _leaves(cfg.get(name), name)


def _leaves(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """Keys and configs of the data sets in a loader, within whatever wraps them."""
    if isinstance(node, (list, tuple)):
        for index, child in enumerate(node):
            yield from _leaves(child, f"{key}.{index}")
    elif isinstance(node, dict):
        wrapped = [name for name in ("dataset", "datasets") if name in node]
        for name in wrapped:
            yield from _leaves(node[name], f"{key}.{name}")
        if not wrapped:
            yield key, node


def _paths(leaf: dict) -> Iterator[tuple[str, str]]:
    """Fields and paths of a data set, joined as MMEngine's BaseDataset joins them."""
    root = leaf.get("data_root") or ""
    found = False
    ann_file = leaf.get("ann_file")
    if isinstance(ann_file, str) and ann_file:
        found = True
        yield "ann_file", os.path.join(root, ann_file)
    prefix = leaf.get("data_prefix")
    prefixes = prefix if isinstance(prefix, dict) else {"": prefix}
    for name, value in prefixes.items():
        if isinstance(value, str) and value:
            found = True
            field = f"data_prefix.{name}" if name else "data_prefix"
            yield field, os.path.join(root, value)
    if root and not found:
        yield "data_root", root
