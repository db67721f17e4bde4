"""Running long commands: into a log, with progress, and never left behind."""

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO


class PipStatus:
    """What pip does, from its output: the line that stands beside the clock."""

    def __init__(self) -> None:
        self.text = "starting"

    def feed(self, line: str) -> None:
        line = line.strip()
        if re.match(r"(Collecting|Downloading|Installing|Building|Processing) ", line):
            self.text = line

    def describe(self, seconds: float) -> str:
        return f"{clock(seconds)}  {self.text}"


class CompileStatus(PipStatus):
    """The compile's progress, from ninja's ``[24/78]`` lines."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.now = now
        self.done = self.total = 0
        self.began = self.ended = 0.0

    def feed(self, line: str) -> None:
        super().feed(line)
        if "build_ext" in line and not self.began:
            self.began = self.now()
        count = re.match(r"\s*\[(\d+)/(\d+)\] ", line)
        if count:
            self.done, self.total = int(count[1]), int(count[2])
            self.ended = self.now()
            self.began = self.began or self.ended

    def describe(self, seconds: float) -> str:
        if not self.total:
            return super().describe(seconds)
        if self.done == self.total:
            return f"100%  {self.total} files compiled, linking, {clock(seconds)}"
        # The rate comes from finished files, so that the estimate counts down
        # between them.
        each = (self.ended - self.began) / self.done
        left = max(self.began + each * self.total - self.now(), 0.0)
        share = 100 * self.done // self.total
        return (
            f"{share:3d}%  file {self.done} of {self.total}, {clock(seconds)} gone, "
            f"about {clock(left)} left"
        )


def clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Progress:
    """One line that is rewritten on a terminal, else a line every half minute."""

    def __init__(self, out: IO[str], every: float = 30.0) -> None:
        self.out, self.every = out, every
        self.last = time.monotonic()

    def show(self, text: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        line = f"      {text}"
        line = line if len(line) <= width else line[: width - 3] + "..."
        if self.out.isatty():
            self.out.write("\r\x1b[K" + line)
        elif time.monotonic() - self.last >= self.every:
            self.out.write(line + "\n")
            self.last = time.monotonic()
        self.out.flush()

    def close(self) -> None:
        if self.out.isatty():
            self.out.write("\r\x1b[K")
            self.out.flush()


def run_logged(
    argv: list[str],
    log: Path,
    status: PipStatus,
    progress: Progress,
    env: dict[str, str],
    cwd: Path,
    keep_open: tuple[int, ...] = (),
) -> int:
    """Run a command into a log file, showing its status; returns its exit code.

    However this ends, the command and what it started have ended, too.
    """
    begin = time.monotonic()
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        file.write(f"$ {' '.join(argv)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=env,
            cwd=cwd,
            start_new_session=True,
            pass_fds=keep_open,
        )
        try:
            rest = b""
            while True:
                if select.select([process.stdout], [], [], 1.0)[0]:
                    data = os.read(process.stdout.fileno(), 1 << 16)
                    if not data:
                        break
                    file.write(data)
                    file.flush()
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        status.feed(line.decode(errors="replace"))
                progress.show(status.describe(time.monotonic() - begin))
            return process.wait()
        finally:
            progress.close()
            end_group(process)


def end_group(process: subprocess.Popen) -> None:
    """End a process group: politely, so that ninja ends its compilers, then not."""
    process.stdout.close()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
            deadline = time.monotonic() + 5
            while time.monotonic() < deadline:
                process.poll()
                os.killpg(process.pid, 0)
                time.sleep(0.02)


UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|ProxyError|"
    r"ConnectTimeout|ReadTimeout|Read timed out|Connection refused|Connection reset|"
    r"No route to host|Network is unreachable"
)
# Lines that say only that something above them failed.
EMPTY_WORDS = re.compile(
    r"subprocess-exited-with-error|Failed (to build|building)|originates from|"
    r"metadata-generation-failed|No matching distribution|Ignored the following|"
    r"ninja: build stopped|Error compiling objects|for help visit"
)


def failure_reason(log: Path, start: int = 0) -> str:
    """The last line of a log that tells why a command failed, or an empty string."""
    with open(log, "rb") as file:
        file.seek(start)
        text = file.read().decode(errors="replace")
    lines = [line.strip() for line in text.splitlines()[1:] if line.strip()]
    errors = [line for line in lines if re.search(r"\berror\b|Error:", line, re.I)]
    telling = [line for line in errors if not EMPTY_WORDS.search(line)]
    reason = (telling or errors or lines or [""])[-1][:300].removeprefix("ERROR: ")
    if UNREACHABLE.search(text):
        return f"the package index could not be reached ({reason})"
    return reason
