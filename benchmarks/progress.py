"""How far a measurement is, on standard error."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


class CostProgress:
    """A bar over the expected cost; in a log, a line for each part.

    It is drawn between measured turns only: nothing runs beside them.

    Args:
        total: The cost of everything.
    """

    def __init__(self, total: float) -> None:
        console = Console(stderr=True)
        self._terminal = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:.0f} %"),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            auto_refresh=False,
            disable=not self._terminal,
            transient=True,
        )
        self._total, self._done = total, 0.0
        self._task = self._bar.add_task("", total=total)
        self._start = time.monotonic()

    def __enter__(self) -> CostProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """What comes next."""
        if not self._done:
            # Checks come first, and are not in the cost.
            self._start = time.monotonic()
        self._bar.update(self._task, description=text)
        if self._terminal:
            self._bar.refresh()
            return
        share, eta = self._done / self._total, ""
        if share:
            seconds = (time.monotonic() - self._start) * (1 - share) / share
            eta = f", eta {seconds:.0f} s"
        self._bar.console.print(
            f"[{share:4.0%}{eta}] {text}", markup=False, highlight=False
        )

    def advance(self, cost: float) -> None:
        """So much of the cost is done."""
        self._done += cost
        self._bar.update(self._task, completed=self._done)
        self._bar.refresh()
