"""How the set-up runs commands: progress, reasons of failure, nothing left running."""

import os
import shutil
from pathlib import Path

import pytest

from tools.setup_support import commands

NINJA = "  [{}/78] c++ -MMD -MF /tmp/build/temp.linux-x86_64-cpython-311/mmcv/ops/{}.o"


def test_compile_status_counts_files_and_time_left():
    now = [0.0]
    status = commands.CompileStatus(now=lambda: now[0])
    status.feed("Collecting onedl-mmcv==2.3.6")
    assert status.describe(1) == "0:01  Collecting onedl-mmcv==2.3.6"
    now[0] = 10.0
    status.feed("  running build_ext")
    for done in range(1, 27):
        now[0] += 10.0
        status.feed(NINJA.format(done, done))
    assert status.describe(270) == " 33%  file 26 of 78, 4:30 gone, about 8:40 left"
    now[0] += 10.0
    assert status.describe(280).endswith("about 8:30 left")
    status.feed(NINJA.format(78, "last"))
    assert "100%" in status.describe(800)


class Screen:
    """Collects what is written; says it is a terminal, or that it is not."""

    def __init__(self, terminal: bool) -> None:
        self.terminal, self.text = terminal, ""

    def isatty(self) -> bool:
        return self.terminal

    def write(self, text: str) -> None:
        self.text += text

    def flush(self) -> None: ...


def test_progress_rewrites_one_line_on_a_terminal():
    screen = Screen(terminal=True)
    progress = commands.Progress(screen)
    for text in ("first", "second", "x" * 500):
        progress.show(text)
    progress.close()
    assert "\n" not in screen.text
    parts = screen.text.split("\r\x1b[K")
    assert [part.strip() for part in parts[:3]] == ["", "first", "second"]
    assert len(parts[3]) < shutil.get_terminal_size().columns
    assert parts[-1] == ""


def test_progress_elsewhere_is_an_occasional_line(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(commands.time, "monotonic", lambda: now[0])
    screen = Screen(terminal=False)
    progress = commands.Progress(screen, every=30)
    for second in range(70):
        now[0] = float(second)
        progress.show(f"at {second}")
    progress.close()
    assert screen.text.split() == ["at", "30", "at", "60"]


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "  a.cpp:3:1: error: 'x' was not declared in this scope\n"
            "  ninja: build stopped: subcommand failed.\n"
            "  error: subprocess-exited-with-error\n"
            "ERROR: Failed to build one or more wheels\n",
            "a.cpp:3:1: error: 'x' was not declared in this scope",
        ),
        (
            "WARNING: Retrying (Retry(total=0)) after connection broken by "
            "'NewConnectionError(...)': /simple/torch/\n"
            "ERROR: Could not find a version that satisfies torch==2 (from none)\n"
            "ERROR: No matching distribution found for torch==2\n",
            "the package index could not be reached (Could not find a version that "
            "satisfies torch==2 (from none))",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space "
            "left on device\n\n",
            "Could not install packages due to an OSError: [Errno 28] No space left "
            "on device",
        ),
        ("something\nthe end\n", "the end"),
        ("", ""),
    ],
)
def test_failure_reason_is_the_telling_line(tmp_path, log, reason):
    path = tmp_path / "log"
    path.write_text("earlier error: of another command\n")
    start = path.stat().st_size
    with open(path, "a") as file:
        file.write("$ pip install\n" + log)
    assert commands.failure_reason(path, start) == reason


def test_a_command_that_is_left_takes_its_children_along(tmp_path):
    """Whatever ends the waiting, no process stays behind."""

    class Impatient(commands.PipStatus):
        def feed(self, line: str) -> None:
            raise KeyboardInterrupt

    pids = tmp_path / "pids"
    script = f"sleep 600 & echo $! $$ > {pids}; echo ready; wait"
    with pytest.raises(KeyboardInterrupt):
        commands.run_logged(
            ["bash", "-c", script],
            tmp_path / "log",
            Impatient(),
            commands.Progress(Screen(terminal=False)),
            env=dict(os.environ),
            cwd=tmp_path,
        )
    for pid in pids.read_text().split():
        status = Path("/proc", pid, "stat")
        assert not status.exists() or status.read_text().split()[2] == "Z"
