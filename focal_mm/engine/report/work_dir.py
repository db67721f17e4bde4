"""What MMEngine left in a work dir: logs, configs, metrics, checkpoints.

A run, of training or of testing, has a folder ``TIMESTAMP`` in its work dir with

- ``vis_data/scalars.json``: a JSON object a line, of a training iteration (its losses)
  or of a validation (its metrics),
- ``vis_data/config.py``: its config, options of the command line included,
- ``TIMESTAMP.log``: what it printed,
- ``TIMESTAMP.json``: the metrics of a test.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_TIMESTAMP = "[0-9]" * 8 + "_" + "[0-9]" * 6
# Of validation and of testing, beside the metrics.
_NO_METRICS = {"step", "time", "data_time", "memory", "epoch", "iter"}
_NUMBER = re.compile(r"(epoch|iter)_(\d+)\.pth")
_ETA = re.compile(r"(?:Epoch|Iter)\(train\).*  eta: (.+?)  ")
_TAIL = 65536
"""Bytes at the end of a log among which its last training line is looked for."""


def read_scalars(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The objects of a file with one in each line, and how many lines hold none.

    A run that was killed, or a full disk, leaves broken lines.
    """
    if not path.is_file():
        return [], 0
    objects, broken = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            found = json.loads(line) if line.strip() else {}
        except ValueError:
            found = None
        if isinstance(found, dict):
            objects += [found] if found else []
        else:
            broken += 1
    return objects, broken


def read_dumped_config(path: Path) -> dict[str, Any]:
    """A config as MMEngine dumps it, literals only, without executing it.

    Returns:
        Its variables; nothing if it is missing or holds more than literals.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        return {
            node.targets[0].id: _literal(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign)
        }
    except (OSError, ValueError, SyntaxError, AttributeError):
        return {}


def _literal(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "dict":
        found = {}
        for word in node.keywords:
            value = _literal(word.value)
            found |= value if word.arg is None else {word.arg: value}
        return found
    if isinstance(node, ast.Dict):
        keys = [ast.literal_eval(key) for key in node.keys]
        return dict(zip(keys, map(_literal, node.values), strict=True))
    if isinstance(node, (ast.List, ast.Tuple)):
        items = [_literal(item) for item in node.elts]
        return tuple(items) if isinstance(node, ast.Tuple) else items
    return ast.literal_eval(node)


@dataclass(frozen=True)
class Log:
    """The folder of one run."""

    folder: Path

    @cached_property
    def _scalars(self) -> tuple[list[dict[str, Any]], int]:
        return read_scalars(self.folder / "vis_data" / "scalars.json")

    @property
    def broken(self) -> int:
        """Lines of the scalars that cannot be read."""
        return self._scalars[1]

    @cached_property
    def train(self) -> list[dict[str, float]]:
        """Losses, and what was logged beside them; ``step`` counts iterations."""
        return [line for line in self._scalars[0] if _is_training(line)]

    @cached_property
    def val(self) -> list[dict[str, float]]:
        """Metrics of validations; ``step`` is the epoch or the iteration."""
        lines = [line for line in self._scalars[0] if not _is_training(line)]
        found = [metrics_of(line) | {"step": line.get("step", 0)} for line in lines]
        return [line for line in found if len(line) > 1]

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its config; empty where it cannot be read."""
        return read_dumped_config(self.folder / "vis_data" / "config.py")

    @cached_property
    def test(self) -> dict[str, float]:
        """Metrics of a test; empty if this is none, or one that has not ended."""
        path = self.folder / f"{self.folder.name}.json"
        return metrics_of(next(iter(read_scalars(path)[0]), {}))

    @property
    def augmented(self) -> bool:
        """Whether this is a test with test-time augmentation."""
        return "module" in self.config.get("model", {})

    @property
    def checkpoint(self) -> str:
        """File name of the checkpoint that a test has loaded, empty if unknown."""
        return Path(self.config.get("load_from") or "").name

    @property
    def eta(self) -> str | None:
        """MMEngine's estimate of the time left, as it has last printed it."""
        path = self.folder / f"{self.folder.name}.log"
        if not path.is_file():
            return None
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL))
            found = _ETA.findall(log.read().decode(errors="replace"))
        return found[-1] if found else None


def _is_training(line: dict[str, Any]) -> bool:
    return "step" in line and any("loss" in key for key in line)


def metrics_of(line: dict[str, Any]) -> dict[str, float]:
    """The metrics among the values of a validation or a test."""
    return {
        key: value
        for key, value in line.items()
        if key not in _NO_METRICS and isinstance(value, (int, float))
    }


class WorkDir:
    """A work dir as it is now: make another object to look again.

    Args:
        folder: It need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = [Log(path) for path in sorted(folder.glob(_TIMESTAMP))]

    @cached_property
    def trainings(self) -> list[Log]:
        """The runs that have trained, from the first to the last."""
        return [log for log in self.logs if log.train]

    @cached_property
    def tests(self) -> list[Log]:
        """The tests that have ended, from the first to the last."""
        return [log for log in self.logs if log.test]

    @property
    def config(self) -> dict[str, Any]:
        """That of the last training; empty if there is none or it is unreadable."""
        return self.trainings[-1].config if self.trainings else {}

    @property
    def broken(self) -> int:
        """Unreadable lines in the scalars of all runs."""
        return sum(log.broken for log in self.logs)

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that was last completed, if it is still there."""
        try:
            named = Path((self.folder / "last_checkpoint").read_text().strip())
        except OSError:
            return None
        # The folder may have been moved since.
        found = (self.folder / named.name, named)
        return next((path for path in found if path.is_file()), None)

    @property
    def trained(self) -> int:
        """Epochs or iterations, whichever the run counts, in the last checkpoint."""
        match = self.checkpoint and _NUMBER.fullmatch(self.checkpoint.name)
        return int(match[2]) if match else 0

    def train_curve(self) -> list[dict[str, float]]:
        """Training lines of all runs; what a later one did again is the later's."""
        return self._joined("train", lambda first: first["step"])

    def val_curve(self) -> list[dict[str, float]]:
        """Validation lines of all runs, likewise."""
        return self._joined("val", lambda first: first.get("epoch", first["step"]))

    def _joined(self, kind: str, start: Any) -> list[dict[str, float]]:
        curve: list[dict[str, float]] = []
        for log in self.trainings:
            begin = start(log.train[0])
            curve = [line for line in curve if line["step"] < begin]
            curve += getattr(log, kind)
        return curve


def differences(left: Any, right: Any, key: str = "") -> Iterator[str]:
    """Dotted keys at which two configs or parts of them differ."""
    if isinstance(left, dict) and isinstance(right, dict):
        for name in [*left, *(name for name in right if name not in left)]:
            dotted = f"{key}.{name}" if key else str(name)
            yield from differences(left.get(name), right.get(name), dotted)
    elif isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        if len(left) != len(right):
            yield key
        else:
            for place, pair in enumerate(zip(left, right, strict=True)):
                yield from differences(*pair, f"{key}.{place}")
    elif left != right:
        yield key
