"""Trainings that are killed, or stopped before their time, end as if they were not."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.end_to_end.test_train_resume import losses_of

pytestmark = pytest.mark.slow

CONFIG = """
_base_ = {base!r}
custom_imports = dict(imports=["focal_mm", "focal_mm.engine.hooks", "signal_hook"])
custom_hooks = [
    dict(type="IterSeedHook"),
    dict(type="SignalHook", number={number}, iteration={iteration}, rank={rank}),
]
"""
EPOCHS = """
train_cfg = dict(_delete_=True, type="EpochBasedTrainLoop", max_epochs=2)
sampler = dict(_delete_=True, type="DefaultSampler", shuffle=True)
train_dataloader = dict(sampler=sampler)
"""


@pytest.fixture
def signalled(toy_config: Path, tmp_path: Path) -> Callable[..., Path]:
    """Writes the toy config, in which a process is sent a signal."""

    def write(number: int, iteration: int, rank: int = 0, more: str = "") -> Path:
        path = tmp_path / f"signal_{number}_at_{iteration}.py"
        text = CONFIG.format(
            base=str(toy_config), number=int(number), iteration=iteration, rank=rank
        )
        path.write_text(text + more)
        return path

    return write


def test_killed_process_is_started_again(signalled, unbroken_run, run_tool, tmp_path):
    """Not only this one: all resume from the last checkpoint, by themselves."""
    config, work = signalled(signal.SIGKILL, iteration=5, rank=1), tmp_path / "work"
    output = run_tool("dist_train.sh", config, 2, "--work-dir", work)
    assert output.count("torchrun: process 1 has ended with -9, all are started") == 1
    assert "--resume: going on from" in output
    first, second = sorted(work.glob("*/vis_data/scalars.json"))
    steps = [json.loads(line)["step"] for line in first.read_text().splitlines()]
    assert steps[:4] == [1, 2, 3, 4]
    expected = losses_of(unbroken_run[0])
    again = second.read_text().splitlines()
    assert len(again) == 3
    for line in map(json.loads, again):
        losses = {key: value for key, value in line.items() if "loss" in key}
        assert losses == expected[line["step"]]


def test_mistakes_are_not_started_again(toy_config, run_tool, tmp_path):
    options = ("--cfg-options", "train_dataloader.dataset.data_root=/gone/")
    arguments = (toy_config, 2, "--work-dir", tmp_path / "work", *options)
    output = run_tool("dist_train.sh", *arguments, code=1)
    assert output.count("data not found") == 1
    assert "torchrun: " not in output


def test_sigterm_and_resume(signalled, unbroken_run, run_tool, tmp_path):
    """One process is told so, all stop; as before a time limit of Slurm."""
    config, work = signalled(signal.SIGTERM, iteration=4, rank=1), tmp_path / "work"
    arguments = ("dist_train.sh", config, 2, "--work-dir", work)
    output = run_tool(*arguments, code=143)
    assert "train.py: stopped by SIGTERM; go on from" in output
    assert "Traceback" not in output
    assert [path.name for path in work.glob("stopped*")] == ["stopped_iter_4.pth"]
    assert list(losses_of(work)) == [1, 2, 3, 4]

    run_tool(*arguments, "--resume")
    assert losses_of(work) == losses_of(unbroken_run[0])


def test_sigterm_within_an_epoch(signalled, run_tool, tmp_path):
    """One process, epochs of eight iterations."""

    def train(config: Path, work: str, *options: str, code: int = 0) -> dict:
        folder = tmp_path / work
        run_tool("train.py", config, "--work-dir", folder, *options, code=code)
        return losses_of(folder)

    unbroken = train(signalled(signal.SIGTERM, iteration=99, more=EPOCHS), "unbroken")
    assert len({losses["loss"] for losses in unbroken.values()}) == 16
    config = signalled(signal.SIGTERM, iteration=3, more=EPOCHS)
    assert list(train(config, "stopped", code=143)) == [1, 2, 3]
    config = signalled(signal.SIGTERM, iteration=13, more=EPOCHS)
    assert len(train(config, "stopped", "--resume", code=143)) == 13
    (left,) = (tmp_path / "stopped").glob("stopped_iter_*.pth")
    assert left.name == "stopped_iter_13.pth"
    assert train(config, "stopped", "--resume") == unbroken
