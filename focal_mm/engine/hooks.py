"""Training hooks."""

import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, barrier, get_rank, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop

from focal_mm.engine.errors import StoppedError
from focal_mm.engine.files import replacing


@HOOKS.register_module()
class IterSeedHook(Hook):
    """Makes each iteration's random numbers depend on its number only.

    A run that was stopped and resumed then draws the same numbers as one that was
    not: stochastic depth, sampled anchors and, with ``num_workers=0``, augmentations.
    (Loader workers keep random states of their own: with them a resumed run sees the
    same images in the same order, augmented differently.) Ranks draw differently from
    each other. Set ``randomness.seed`` to have the same numbers in every run.
    """

    # Before hooks of other priorities that might draw numbers themselves.
    priority = "VERY_HIGH"

    def before_train(self, runner: Any) -> None:
        """Seeds what iteration-based loops draw for their data, skipped data too."""
        loop = runner.train_loop
        # A loader that begins to iterate draws a number, at whatever iteration it is.
        loop.dataloader.generator = torch.Generator()
        if hasattr(loop, "dataloader_iterator"):
            loop.dataloader_iterator = _SeededBatches(runner, loop.dataloader_iterator)

    def before_train_epoch(self, runner: Any) -> None:
        """Seeds what loading an epoch's first data draws."""
        _seed_all(runner.seed, runner.iter, "data")

    def before_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None
    ) -> None:
        """Seeds what the iteration itself draws."""
        _seed_all(runner.seed, runner.iter, "step")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Seeds what loading the next iteration's data draws."""
        _seed_all(runner.seed, runner.iter + 1, "data")


class StopHook(Hook):
    """Ends a training at SIGTERM, as Slurm sends it before a time limit.

    After the iteration that is under way all processes stop together, with a checkpoint
    from which ``--resume`` goes on as if nothing had happened, within an epoch too. Of
    these checkpoints the last is kept. A signal during a validation ends the process
    at once.
    """

    # After the hooks that step schedulers and write checkpoints.
    priority = "LOWEST"

    def __init__(self) -> None:
        self._is_asked = False
        # Batches of the current epoch that were done before it was resumed, of all.
        self._done, self._of = 0, 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take notice of SIGTERM; loaders' processes that are started here do too."""
        self._before = signal.signal(signal.SIGTERM, self._ask)
        try:
            yield
        except StoppedError:
            raise
        except Exception:
            if self._is_asked:
                # All are being ended, which may be why this one failed.
                signal.signal(signal.SIGTERM, self._before)
                signal.raise_signal(signal.SIGTERM)
            raise
        finally:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_: Any) -> None:
        self._is_asked = True

    def before_val_epoch(self, runner: Any) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def after_val_epoch(self, runner: Any, metrics: Any = None) -> None:
        signal.signal(signal.SIGTERM, self._ask)

    def after_load_checkpoint(self, runner: Any, checkpoint: dict) -> None:
        if runner._resume:
            self._done, self._of = checkpoint["meta"].get("batches", (0, 0))

    def before_train(self, runner: Any) -> None:
        """Leaves out the batches of the epoch that were done."""
        loader = runner.train_dataloader
        if self._done and self._of == len(loader):
            rest = _Rest(loader.batch_sampler, self._done)
            # DataLoader refuses it, for the sake of those who change what they see.
            object.__setattr__(loader, "batch_sampler", rest)
        elif self._done:
            runner.logger.warning(
                f"epochs had {self._of} batches and have {len(loader)} now: the epoch "
                "that was stopped begins anew"
            )
            self._done = 0

    def after_train_epoch(self, runner: Any) -> None:
        self._done = 0

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Stops if any process was asked to.

        Raises:
            focal_mm.engine.errors.StoppedError: When the checkpoint is written.
        """
        is_asked = torch.tensor(int(self._is_asked))
        all_reduce(is_asked, "max")
        if not is_asked:
            return
        meta = {}
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            batches = self._done + batch_idx + 1, len(runner.train_dataloader)
            meta = dict(batches=batches)
        path = Path(runner.work_dir, f"stopped_iter_{runner.iter + 1}.pth")
        runner.save_checkpoint(str(path.parent), path.name, meta=meta, by_epoch=False)
        if is_main_process():
            with replacing(path.with_name("last_checkpoint")) as file:
                file.write_text(str(path))
            for other in set(path.parent.glob("stopped_iter_*.pth")) - {path}:
                other.unlink()
        barrier()
        raise StoppedError(f"stopped by SIGTERM; go on from {path} by --resume")


class _Rest:
    """A batch sampler that leaves out its first batches, once."""

    def __init__(self, batches: Any, done: int) -> None:
        self._batches, self._done = batches, done

    def __iter__(self) -> Iterator[list[int]]:
        done, self._done = self._done, 0
        return islice(self._batches, done, None)

    def __len__(self) -> int:
        return len(self._batches)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batches, name)


class _SeededBatches:
    """An endless iterator over batches; each is drawn from its iteration's numbers.

    Resuming, upstream's MMEngine draws all batches of the past once more, after the
    hooks; the maintained one skips them by ``skip_iter``.
    """

    def __init__(self, runner: Any, batches: Any) -> None:
        self._runner = runner
        self._batches = batches

    def __next__(self) -> Any:
        _seed_all(self._runner.seed, self._runner.iter, "data")
        return next(self._batches)

    def skip_iter(self, num_iters: int) -> None:
        self._batches.skip_iter(num_iters)


def _seed_all(seed: int, iteration: int, purpose: str) -> None:
    key = (seed, get_rank(), iteration, ("data", "step").index(purpose))
    for_random, for_numpy, for_torch = np.random.SeedSequence(key).generate_state(3)
    random.seed(int(for_random))
    np.random.seed(for_numpy)
    torch.manual_seed(int(for_torch))
