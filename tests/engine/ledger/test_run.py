"""What `run` starts, in which order, and what it does when things go wrong."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from focal_mm.engine.lock import TRAINING_LOCK, hold

pytestmark = pytest.mark.usefixtures("scripts")


def calls(suite) -> list[str]:
    """The commands that were started, without their options."""
    path = suite.root / "calls.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.partition(" --")[0] for line in lines]


def mark(suite, run: str, name: str) -> Path:
    path = suite.work_dirs / run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def wait_for(path: Path) -> None:
    for _ in range(600):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} did not appear")


TINY = [
    "dist_train.sh configs/tiny_in1k.py 1",
    "dist_test.sh configs/tiny_in1k.py work_dirs/tiny_in1k/epoch_4.pth 1",
]
TEST = "dist_test.sh configs/detector_1x.py work_dirs/detector_1x/epoch_4.pth 1"
DETECTOR = ["dist_train.sh configs/detector_1x.py 1", TEST, TEST]


def test_each_row_after_its_pretraining_and_none_twice(suite, capsys):
    assert suite.call("run", "detector_1x", "--gpus", 1) == 0
    assert calls(suite) == TINY + DETECTOR
    lines = (suite.root / "calls.txt").read_text().splitlines()
    assert "init_cfg.checkpoint=work_dirs/tiny_in1k/epoch_4.pth" in lines[2]
    assert ["--tta" in line for line in lines] == [False] * 4 + [True]
    # 2 images a step, where the rate is meant for 16.
    assert all("--auto-scale-lr" in line for line in lines if "train" in line)
    assert suite.call("run", "detector_1x", "tiny_in1k", "--gpus", 1) == 0
    assert calls(suite) == TINY + DETECTOR
    assert "2 of 2 runs are done" in capsys.readouterr().out


def test_the_batch_of_the_recipe_needs_no_other_rate(suite):
    assert suite.call("run", "detector_public", "--gpus", 8) == 0
    line, _ = (suite.root / "calls.txt").read_text().splitlines()
    assert "auto-scale-lr" not in line
    # Public weights are no row to be trained.
    assert line.endswith("init_cfg.checkpoint=torchvision://resnet50")


def test_what_was_trained_by_hand_counts(suite):
    suite.train("tiny_in1k", 4, [0.1] * 4)
    assert suite.call("run", "detector_1x", "--gpus", 1) == 0
    assert calls(suite) == [TINY[1], *DETECTOR]


def test_seeds(suite):
    assert suite.call("run", "detector_1x", "--gpus", 1, "--seeds", 2) == 0
    lines = (suite.root / "calls.txt").read_text().splitlines()
    trained = [line for line in lines if line.startswith("dist_train")]
    assert len(trained) == 3
    assert "--work-dir work_dirs/detector_1x_seed1 " in trained[2]
    assert "randomness.seed=1 " in trained[2]
    assert "tiny_in1k/epoch_4.pth" in trained[2]


def test_a_failure_is_named_and_the_others_go_on(suite, capsys):
    mark(suite, "tiny_in1k", "fail-train")
    assert suite.call("run", "detector_1x", "detector_public", "--gpus", 1) == 1
    errors = capsys.readouterr().err.splitlines()
    assert errors[0].startswith("reproduce.py: tiny_in1k: failed: ValueError: it is b")
    assert errors[1] == (
        "reproduce.py: detector_1x: not started: tiny_in1k, which it starts from, is "
        "not trained"
    )
    assert len(errors) == 2
    assert any("detector_public" in call for call in calls(suite))
    assert suite.call("status", "tiny_in1k") == 0
    assert "failed: ValueError: it is broken" in capsys.readouterr().out
    # The next call tries again.
    (suite.work_dirs / "tiny_in1k" / "fail-train").unlink()
    assert suite.call("run", "detector_1x", "--gpus", 1) == 0


def test_a_test_that_fails_leaves_the_checkpoint_of_use(suite):
    mark(suite, "tiny_in1k", "fail-test")
    assert suite.call("run", "detector_1x", "--gpus", 1) == 1
    assert calls(suite) == TINY + DETECTOR


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_the_command_and_the_next_call_goes_on(suite, capsys, number):
    sleep = mark(suite, "tiny_in1k", "sleep")
    asleep = suite.work_dirs / "tiny_in1k" / "asleep"

    def stop() -> None:
        wait_for(asleep)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=stop)
    thread.start()
    assert suite.call("run", "tiny_in1k", "--gpus", 1) == 130
    thread.join()
    assert "the same command goes on" in capsys.readouterr().err
    asleep.unlink()
    time.sleep(0.5)
    assert not asleep.exists(), "the command goes on"
    sleep.unlink()
    assert suite.call("run", "tiny_in1k", "--gpus", 1) == 0


@pytest.mark.parametrize("lock", [".reproduce.lock", TRAINING_LOCK])
def test_a_second_call_waits_for_the_first(suite, capsys, lock):
    """Or for a training by hand; then it starts nothing that was done meanwhile."""
    held, stop = threading.Event(), threading.Event()
    folder = suite.work_dirs / "tiny_in1k"

    def first() -> None:
        with hold(folder / lock):
            held.set()
            stop.wait(60)
            suite.train("tiny_in1k", 4, [0.1] * 4)
            suite.test("tiny_in1k", {"accuracy/top1": 80.0})

    def end_soon() -> None:
        time.sleep(1.5)
        stop.set()

    threads = [threading.Thread(target=target) for target in (first, end_soon)]
    threads[0].start()
    held.wait(60)
    threads[1].start()
    assert suite.call("run", "tiny_in1k", "--gpus", 1) == 0
    for thread in threads:
        thread.join()
    output = capsys.readouterr().out
    assert output.count(f"tiny_in1k: waits for process {os.getpid()} on ") == 1
    assert calls(suite) == []


def test_a_lock_ends_with_its_process(suite):
    path = suite.work_dirs / "tiny_in1k" / ".reproduce.lock"
    code = (
        "import os, sys, pathlib\n"
        "from focal_mm.engine.lock import hold\n"
        "lock = hold(pathlib.Path(sys.argv[1]))\nlock.__enter__()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text().startswith("process ")
    assert suite.call("run", "tiny_in1k", "--gpus", 1) == 0


def test_slurm_waits_for_all_that_can_start_at_once(suite):
    """Neither of two rows ends before the other has started."""
    sleeps = [mark(suite, name, "sleep") for name in ("tiny_in1k", "detector_public")]

    def wake() -> None:
        for path in sleeps:
            wait_for(path.with_name("asleep"))
        for path in sleeps:
            path.unlink()

    thread = threading.Thread(target=wake)
    thread.start()
    words = ("tiny_in1k", "detector_public", "--slurm", "part", "--gpus", 16)
    assert suite.call("run", *words) == 0
    thread.join()
    (line,) = [line for line in calls(suite) if "slurm_train.sh part tiny" in line]
    assert line == (
        "GPUS=16 GPUS_PER_NODE=8 slurm_train.sh part tiny_in1k configs/tiny_in1k.py "
        "work_dirs/tiny_in1k"
    )


@pytest.mark.parametrize("options", [["--gpus", 2], ["--slurm", "part"]])
def test_printed_commands_do_the_same_when_pasted(suite, capsys, options):
    capsys.readouterr()
    assert suite.call("run", "detector_1x", "--dry-run", *options) == 0
    printed = capsys.readouterr().out
    assert calls(suite) == []
    subprocess.run(["bash", "-e", "-c", printed], check=True)
    pasted = calls(suite)
    assert len(pasted) == 5
    assert suite.call("run", "detector_1x", *options) == 0
    assert calls(suite) == pasted
    assert suite.call("run", "detector_1x", "--dry-run", *options) == 0
    assert capsys.readouterr().out.count("dist_") == 0
