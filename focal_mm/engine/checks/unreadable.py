"""Images that become unreadable while a run goes on are replaced by others."""

import logging
from multiprocessing import Value
from typing import Any

from mmcv.transforms import BaseTransform
from mmengine.dataset import BaseDataset
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from focal_mm.engine.checks.images import look
from focal_mm.engine.errors import UserError

MOST_PER_EPOCH = 20
"""Unreadable images that a process replaces in an epoch."""


def replace_unreadable(runner: Runner) -> None:
    """Make a runner's training replace images that cannot be read.

    The data set draws another one: MMEngine's own way where a transform gives None. The
    config stays as it is, for it is what other tools read in the work dir.

    Args:
        runner: Of which no loader is built yet; each ``LoadImageFromFile`` of its
            training data sets will be wrapped, and a hook counts by the epoch.
    """
    build = runner.build_dataloader

    def build_and_wrap(*args: Any, **kwargs: Any) -> DataLoader:
        loader = build(*args, **kwargs)
        for dataset in _datasets(loader.dataset):
            steps = getattr(dataset.pipeline, "transforms", [])
            for index, step in enumerate(steps):
                if type(step).__name__ == "LoadImageFromFile" and not dataset.test_mode:
                    steps[index] = ReplaceUnreadable(step)
        return loader

    runner.build_dataloader = build_and_wrap
    runner.register_hook(UnreadableImagesHook())


def _datasets(dataset: Any) -> list[BaseDataset]:
    """Those of MMEngine within whatever wraps them."""
    if isinstance(dataset, BaseDataset):
        return [dataset]
    inner = getattr(dataset, "datasets", None) or [getattr(dataset, "dataset", None)]
    return [found for one in inner if one is not None for found in _datasets(one)]


class ReplaceUnreadable(BaseTransform):
    """Loads an image, or has the data set draw another one and logs the path.

    Args:
        loader: The transform that loads.
        most: How often until :meth:`reset`, by all workers of a process together.
    """

    def __init__(self, loader: BaseTransform, most: int = MOST_PER_EPOCH) -> None:
        self.loader = loader
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


class UnreadableImagesHook(Hook):
    """Makes each epoch's unreadable images count from zero."""

    def before_train_epoch(self, runner: Runner) -> None:
        """Reset the loaders of all training data sets."""
        for dataset in _datasets(runner.train_dataloader.dataset):
            for step in getattr(dataset.pipeline, "transforms", []):
                if isinstance(step, ReplaceUnreadable):
                    step.reset()
