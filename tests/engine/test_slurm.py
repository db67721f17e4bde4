"""Slurm's environment becomes torchrun's."""

import os
import stat

import pytest
from mmengine.config import Config

from focal_mm.engine import launch, slurm
from focal_mm.engine.errors import UserError

TASK = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_NODELIST": "node[07-08]",
    "SLURM_NTASKS_PER_NODE": "4",
}
SET = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@pytest.fixture
def task(tmp_path, monkeypatch) -> None:
    """The environment of a task; ``scontrol`` tells what it was asked."""
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    for name in (*SET, "MASTER_ADDR", "MASTER_PORT"):
        # First set, so that monkeypatch takes back what the code sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text('#!/bin/sh\necho "$1-$2-$3"\necho other\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@pytest.mark.usefixtures("task")
def test_ranks_and_the_first_machine():
    slurm.take_slurm_environment()
    assert [os.environ[name] for name in SET] == ["5", "1", "8", "4"]
    assert os.environ["MASTER_ADDR"] == "show-hostnames-node[07-08]"
    assert os.environ["MASTER_PORT"] == "29500"


@pytest.mark.usefixtures("task")
def test_the_users_choices_stay(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "1234")
    slurm.take_slurm_environment()
    assert os.environ["MASTER_ADDR"] == "10.0.0.1"
    assert os.environ["MASTER_PORT"] == "1234"


@pytest.mark.usefixtures("task")
def test_without_scontrol_the_address_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "scontrol").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"node\[07-08\]: set MASTER_ADDR"):
        slurm.take_slurm_environment()


@pytest.mark.usefixtures("task")
def test_outside_of_a_job(monkeypatch):
    monkeypatch.setattr(launch, "get_device", lambda: "cpu")
    monkeypatch.delenv("SLURM_PROCID")
    cfg = Config(dict(model=dict(), launcher="slurm"))
    with pytest.raises(UserError, match=r"without SLURM_PROCID .*slurm_train.sh"):
        launch.set_up_processes(cfg)
