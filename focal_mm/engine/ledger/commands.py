"""The command lines of a run: what a user of the scripts in ``tools/`` would type."""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from focal_mm.engine.ledger.rows import Recipe
from focal_mm.engine.ledger.runs import Run

_MOST_GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Command:
    """A script's command line.

    Attributes:
        words: The script and its arguments.
        env: Variables that are set for it.
    """

    words: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """As it can be pasted into a shell."""
        variables = [f"{key}={shlex.quote(value)}" for key, value in self.env.items()]
        return " ".join([*variables, shlex.join(self.words)])


@dataclass(frozen=True)
class Launcher:
    """Where commands run: on this machine or by Slurm.

    Attributes:
        tools: The folder of the scripts.
        gpus: Processes of a run; None for as many as its recipe has.
        partition: That of Slurm; None for this machine.
        train_options: More options for training.
        cfg_options: More settings for training and testing.
    """

    tools: Path
    gpus: int | None = None
    partition: str | None = None
    train_options: tuple[str, ...] = ()
    cfg_options: tuple[str, ...] = ()

    def train(
        self, run: Run, recipe: Recipe, pretrained: Path | str | None, stop: int
    ) -> Command:
        """Train a run, or go on with it, up to an epoch or iteration.

        Args:
            run: The run.
            recipe: Its row's.
            pretrained: Checkpoint for its backbone: a file of another row, or the
                address of public weights.
            stop: The last epoch or iteration, as the recipe counts.
        """
        gpus = self.gpus or recipe.gpus
        options = ["--resume", *self.train_options]
        if gpus * recipe.batch_size != recipe.base_batch_size:
            options.append("--auto-scale-lr")
        settings = [f"randomness.seed={run.seed}", *self.cfg_options]
        if stop != recipe.length:
            settings.append(f"train_cfg.max_{recipe.unit}s={stop}")
        if pretrained is not None:
            backbone = "model.backbone.init_cfg"
            settings.append(f"{backbone}.checkpoint={pretrained}")
            if isinstance(pretrained, Path):
                # A classifier's: mmpretrain's backbones must be told where theirs is.
                settings.append(f"{backbone}.prefix=backbone.")
        config = _relative(run.row.config)
        options += ["--cfg-options", *settings]
        if self.partition:
            words = [self.partition, run.name, config, str(run.folder), *options]
        else:
            words = [config, str(gpus), "--work-dir", str(run.folder), *options]
        return self._command("train", gpus, words)

    def test(
        self,
        run: Run,
        recipe: Recipe,
        checkpoint: Path,
        augmented: bool,
        work_dir: Path | None = None,
        settings: Sequence[str] = (),
    ) -> Command:
        """Test a checkpoint of a run, with test-time augmentation or without."""
        gpus = self.gpus or recipe.gpus
        options = ["--work-dir", str(work_dir or run.folder)]
        options += ["--tta"] if augmented else []
        settings = [*self.cfg_options, *settings]
        options += ["--cfg-options", *settings] if settings else []
        words = [_relative(run.row.config), str(checkpoint)]
        if self.partition:
            words = [self.partition, run.name, *words, *options]
        else:
            words = [*words, str(gpus), *options]
        return self._command("test", gpus, words)

    def _command(self, what: str, gpus: int, words: Sequence[str]) -> Command:
        kind = "slurm" if self.partition else "dist"
        script = _relative(self.tools / f"{kind}_{what}.sh")
        env = {}
        if self.partition:
            per_node = int(os.environ.get("GPUS_PER_NODE", _MOST_GPUS_PER_NODE))
            env = {"GPUS": str(gpus), "GPUS_PER_NODE": str(min(gpus, per_node))}
        return Command((script, *words), env)


def _relative(path: Path) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
