"""Runs of rows: their work dirs, and what these tell about how far they are.

The run with seed 0, or that somebody started by hand, is in ``WORK_DIRS/ROW``, those
with other seeds in ``WORK_DIRS/ROW_seedN``.
"""

import re
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from focal_mm.engine.ledger.rows import Recipe, Row
from focal_mm.engine.lock import TRAINING_LOCK, holder
from focal_mm.engine.report.work_dir import Log, WorkDir

OUTPUT = "reproduce.log"
"""File in a run's work dir: what its commands printed, and between them ``_NOTE``s."""

_NOTE = re.compile(r"^reproduce\.py (\S+ \S+): (.*)$", re.MULTILINE)
_STARTED, _FAILED = "$ ", "failed: "
_LOCK = ".reproduce.lock"


@dataclass(frozen=True)
class Run:
    """A row trained with one seed.

    Attributes:
        row: The row.
        seed: Which one it is of the row's runs: the seed that it is given.
        folder: Its work dir.
    """

    row: Row
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def lock(self) -> Path:
        """Held by who starts the run's commands."""
        return self.folder / _LOCK

    @property
    def training_lock(self) -> Path:
        """Held by a training itself, however it was started."""
        return self.folder / TRAINING_LOCK

    def look(self, recipe: Recipe) -> "State":
        """What its work dir says now."""
        return State(self, recipe, WorkDir(self.folder))

    def note(self, text: str) -> None:
        """Add a line of the ledger's to what the run's commands have printed."""
        with (self.folder / OUTPUT).open("a", encoding="utf-8") as file:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            file.write(f"reproduce.py {now}: {text}\n")

    def note_start(self, command: str, commit: str) -> None:
        self.note(f"{_STARTED}{command} # commit {commit}")

    def note_failure(self, reason: str) -> None:
        self.note(f"{_FAILED}{reason}")


def run_of(row: Row, seed: int, work_dirs: Path) -> Run:
    """The run of a row with a seed."""
    return Run(row, seed, work_dirs / (f"{row.name}_seed{seed}" if seed else row.name))


def runs_on_disk(row: Row, work_dirs: Path) -> list[Run]:
    """The runs of a row that have begun, by their seeds."""
    seeds = [0]
    for folder in work_dirs.glob(f"{row.name}_seed*"):
        number = folder.name.removeprefix(f"{row.name}_seed")
        seeds += [int(number)] if number.isdecimal() else []
    runs = [run_of(row, seed, work_dirs) for seed in sorted(set(seeds))]
    return [run for run in runs if run.folder.is_dir()]


@dataclass(frozen=True)
class State:
    """How far a run was when its work dir was looked at.

    Attributes:
        run: The run.
        recipe: Its row's.
        work_dir: What MMEngine left.
    """

    run: Run
    recipe: Recipe
    work_dir: WorkDir

    @cached_property
    def length(self) -> int:
        """Epochs or iterations of the training: its own, by hand, may be other ones."""
        loop = self.work_dir.config.get("train_cfg") or {}
        return loop.get(f"max_{self.recipe.unit}s", self.recipe.length)

    @property
    def trained(self) -> bool:
        """Whether the recipe's last checkpoint is there."""
        return self.work_dir.trained >= self.recipe.length

    @property
    def checkpoint(self) -> Path:
        """What is tested and passed on: the last checkpoint, there or not yet."""
        found = self.work_dir.checkpoint if self.trained else None
        return found or self.run.folder / self.recipe.last_checkpoint

    def test(self, augmented: bool) -> Log | None:
        """The last test, with test-time augmentation or without."""
        tests = [log for log in self.work_dir.tests if log.augmented == augmented]
        return tests[-1] if tests else None

    def missing_tests(self) -> list[bool]:
        """Which tests of the last checkpoint are left to do."""
        if not self.recipe.tested:
            return []
        names = ("", self.checkpoint.name)
        return [
            augmented
            for augmented in self.run.row.tests
            if (log := self.test(augmented)) is None or log.checkpoint not in names
        ]

    @cached_property
    def _notes(self) -> list[tuple[str, str]]:
        try:
            text = (self.run.folder / OUTPUT).read_text(encoding="utf-8")
        except OSError:
            return []
        return _NOTE.findall(text)

    @property
    def failure(self) -> str | None:
        """Why its last command failed; None if it did not."""
        if not self._notes or not self._notes[-1][1].startswith(_FAILED):
            return None
        when, text = self._notes[-1]
        # Somebody may have gone on by hand since.
        if self.work_dir.logs and self.work_dir.logs[-1].folder.name > _stamp(when):
            return None
        return text.removeprefix(_FAILED)

    @property
    def commands(self) -> list[str]:
        """The commands that the ledger has started, with their commits."""
        texts = [text for _, text in self._notes if text.startswith(_STARTED)]
        return list(dict.fromkeys(text.removeprefix(_STARTED) for text in texts))

    @property
    def done(self) -> bool:
        return self.trained and not self.missing_tests()

    def __str__(self) -> str:
        """Not started, epoch x of y, done or failed, and what else is known."""
        if self.done:
            return "done"
        who = holder(self.run.training_lock) or holder(self.run.lock)
        if self.failure and not who:
            return f"failed: {self.failure}"
        if not self.work_dir.logs:
            return f"starting ({who})" if who else "not started"
        if self.trained:
            return f"{self._progress}, to be tested{f' ({who})' if who else ''}"
        eta = self.work_dir.trainings[-1].eta if self.work_dir.trainings else None
        parts = [self._progress, f"ETA {eta}" if eta else "", who or "stopped"]
        return ", ".join(part for part in parts if part)

    @property
    def _progress(self) -> str:
        unit, key = {"epoch": ("epoch", "epoch"), "iter": ("iteration", "step")}[
            self.recipe.unit
        ]
        here = self.work_dir.trained
        if self.work_dir.trainings:
            here = max(here, self.work_dir.trainings[-1].train[-1].get(key, 0))
        return f"{unit} {here} of {self.length}"


def _stamp(when: str) -> str:
    """A time of a note as MMEngine names folders."""
    return when.replace("-", "").replace(":", "").replace(" ", "_")
