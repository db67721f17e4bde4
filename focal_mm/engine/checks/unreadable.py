"""Images that become unreadable while a run goes on are replaced by others."""

import logging
from multiprocessing import Value
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS, TRANSFORMS

from focal_mm.engine.checks.images import look
from focal_mm.engine.config import type_name, walk
from focal_mm.engine.errors import UserError

MOST_PER_EPOCH = 20
"""Unreadable images that a process replaces in an epoch."""


def replace_unreadable(cfg: Config) -> None:
    """Make the training pipeline of a config replace images that cannot be read.

    The data set draws another one: MMEngine's own way where a transform gives None.

    Args:
        cfg: Changed in place: each ``LoadImageFromFile`` of the training pipelines is
            wrapped, and a hook counts by the epoch.
    """
    wrapped = False
    for _, node in list(walk(cfg.get("train_dataloader"))):
        for index, step in enumerate(node.get("pipeline") or ()):
            if type_name(step.get("type") or "") == "LoadImageFromFile":
                node["pipeline"][index] = dict(type="ReplaceUnreadable", loader=step)
                wrapped = True
    if wrapped:
        hook = dict(type="UnreadableImagesHook")
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or ()), hook]


@TRANSFORMS.register_module()
class ReplaceUnreadable(BaseTransform):
    """Loads an image, or has the data set draw another one and logs the path.

    Args:
        loader: Config of the transform that loads.
        most: How often until :meth:`reset`, by all workers of a process together.
    """

    def __init__(self, loader: dict, most: int = MOST_PER_EPOCH) -> None:
        self.loader = TRANSFORMS.build(loader)
        self.most = most
        # Workers have copies of everything else.
        self._count = Value("l", 0)

    def reset(self) -> None:
        """Begin to count anew."""
        self._count.value = 0

    def transform(self, results: dict) -> dict | None:
        """Load ``results['img_path']``; None if the file is missing or damaged.

        Raises:
            UserError: If that has been so too often.
        """
        try:
            return self.loader(results)
        except Exception as error:
            path = results.get("img_path")
            problem = isinstance(path, str) and look(path).problem
            if not problem:
                raise
            with self._count.get_lock():
                self._count.value += 1
                count = self._count.value
            if count > self.most:
                raise UserError(
                    f"more than {self.most} images of an epoch are unreadable, as "
                    f"{path} is ({problem}): tools/check_data.py CONFIG names all"
                ) from error
            print_log(
                f"{path} is {problem}: another image takes its place ({count} of "
                f"{self.most} in this epoch)",
                logger="current",
                # Other processes' logs have nothing below.
                level=logging.ERROR,
            )
            return None


@HOOKS.register_module()
class UnreadableImagesHook(Hook):
    """Makes each epoch's unreadable images count from zero."""

    def before_train_epoch(self, runner: Any) -> None:
        """Reset the loaders of all training data sets."""
        for transform in _loaders(runner.train_dataloader.dataset):
            transform.reset()


def _loaders(dataset: Any) -> list[ReplaceUnreadable]:
    """Those of a data set, within whatever wraps it."""
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    if not isinstance(dataset, BaseDataset):
        return [found for one in inner if one is not None for found in _loaders(one)]
    steps = dataset.pipeline.transforms
    return [step for step in steps if isinstance(step, ReplaceUnreadable)]
