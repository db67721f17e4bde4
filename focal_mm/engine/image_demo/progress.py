"""A progress bar with rate and remaining time; in a log, a line now and then."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bar
from rich.text import Text

_SECONDS_BETWEEN_LINES = 30.0


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Images per second over the last while."""
        return Text("" if task.speed is None else f"{task.speed:.2f} images/s")


class Progress:
    """Shows how many images, single ones and frames, are done.

    Args:
        total: Number of images.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        console = Console()
        self._terminal = console.is_terminal
        self._bar = Bar(
            TextColumn("images"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=console,
            disable=not self._terminal,
        )
        self._task = self._bar.add_task("", total=total)
        self._start = self._last_line = time.monotonic()

    def __enter__(self) -> "Progress":
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
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def advance(self) -> None:
        """One more image is done."""
        self.done += 1
        self._bar.update(self._task, completed=self.done)
        now = time.monotonic()
        if not self._terminal and now - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = now
            rate = self.done / (now - self._start)
            left = max(self.total - self.done, 0) / rate
            done = f"{self.done}/{self.total} images"
            self.say(f"{done}  {rate:.2f} images/s  eta {left:.0f} s")

    def correct(self, expected: int) -> None:
        """Mend the total where an input had another number of images than expected.

        Args:
            expected: How many were expected to be done by now.
        """
        self.total += self.done - expected
        self._bar.update(self._task, total=self.total)
