"""Several processes without a GPU."""

import os
import socket
import stat

import pytest
import torch
from mmengine.config import Config

from focal_mm.checkpoint import CheckpointError
from focal_mm.engine import launch
from focal_mm.engine.errors import UserError

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
MASTER = ("MASTER_ADDR", "MASTER_PORT")
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "8",
    "SLURM_NODELIST": "node[07-08]",
}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*TORCHRUN, *MASTER, *SLURM):
        # First set, so that monkeypatch takes back what the code sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretends a device type and a number of GPUs."""

    def pretend(device: str, gpus: int = 0) -> None:
        monkeypatch.setattr(launch, "get_device", lambda: device)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return pretend


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """How process groups would have been made."""
    calls = []
    monkeypatch.setattr(launch, "init_dist", lambda *a, **k: calls.append((a, k)))
    monkeypatch.setattr(launch, "set_multi_processing", lambda **kwargs: None)
    dist = launch.dist
    monkeypatch.setattr(
        dist, "init_process_group", lambda *a, **k: calls.append((a, k))
    )
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    return calls


def config(launcher: str, **dist_cfg: object) -> Config:
    env_cfg = dict(dist_cfg=dict(backend="nccl", **dist_cfg))
    return Config(dict(model=dict(), launcher=launcher, env_cfg=env_cfg))


def test_gloo_on_cpus_and_the_configs_backend_on_gpus(machine, joined, monkeypatch):
    for name in (*TORCHRUN, *MASTER):
        monkeypatch.setenv(name, "1")
    machine("cpu")
    (note,) = launch.join(config("pytorch"))
    assert "2 CPU processes" in note
    launch.join(config("pytorch", timeout=60))
    machine("cuda", 1)
    assert launch.join(config("pytorch", timeout=60)) == []
    assert launch.join(config("none")) == []
    assert [call for call, _ in joined] == [("gloo",), ("gloo",), ("pytorch",)]
    # Upstream's PyTorch takes no timeout that is None.
    assert joined[0][1] == {}
    assert joined[1][1]["timeout"].total_seconds() == 60
    assert joined[2][1] == dict(backend="nccl", timeout=60)


def test_config_keeps_the_wrapper_options_but_no_device_ids():
    cfg = Config(dict(model=dict(), find_unused_parameters=True))
    assert launch.adapt_config_to_cpu(cfg) == []
    assert cfg.model_wrapper_cfg == dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=True,
    )
    wrapper = dict(type="MMDistributedDataParallel", static_graph=True)
    cfg = Config(dict(model=dict(), model_wrapper_cfg=wrapper))
    launch.adapt_config_to_cpu(cfg)
    assert cfg.model_wrapper_cfg == dict(**wrapper, device_ids=None)


def test_sync_bn_becomes_bn_and_says_so():
    norm = dict(type="SyncBN", requires_grad=True)
    model = dict(neck=dict(norm_cfg=norm), heads=[dict(norm_cfg=dict(type="MMSyncBN"))])
    cfg = Config(dict(model=model, sync_bn="torch"))
    (note,) = launch.adapt_config_to_cpu(cfg)
    assert "SyncBN" in note
    assert cfg.model.neck.norm_cfg == dict(type="BN", requires_grad=True)
    assert cfg.model.heads[0].norm_cfg == dict(type="BN")
    assert cfg.sync_bn is None


@pytest.mark.parametrize(
    ("launcher", "device", "environment", "message"),
    [
        ("pytorch", "cuda", {"LOCAL_WORLD_SIZE": "3"}, "3 processes need 3 .* shows 2"),
        (
            "pytorch",
            "cpu",
            {"RANK": None},
            r"without RANK in .*start through .*torchrun",
        ),
        (
            "slurm",
            "cpu",
            {"SLURM_PROCID": None},
            r"without SLURM_PROCID .*slurm_train.sh",
        ),
    ],
)
def test_what_several_processes_cannot_have(
    machine, joined, monkeypatch, launcher, device, environment, message
):
    machine(device, 2)
    present = dict.fromkeys((*TORCHRUN, *MASTER), "1") | SLURM | environment
    for name, value in present.items():
        if value is not None:
            monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        launch.join(config(launcher))
    assert joined == []


@pytest.fixture
def other_process(monkeypatch: pytest.MonkeyPatch):
    """Pretends a second process, whose result of a check is given."""
    left = []

    def pretend(result: tuple) -> list:
        def gather(results: list, own: tuple) -> None:
            results[:] = [own, result]

        monkeypatch.setattr(launch.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(launch.dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(launch.dist, "all_gather_object", gather)
        monkeypatch.setattr(launch, "leave", lambda: left.append(True))
        return left

    return pretend


@pytest.mark.parametrize("error", [None, "here"])
def test_a_check_that_fails_anywhere_stops_every_process(other_process, error):
    def check() -> None:
        if error:
            raise CheckpointError(error)

    left = other_process(("gone.pth", None))
    expected = error or "process 1, on another machine: gone.pth"
    with pytest.raises((UserError, CheckpointError), match=f"^{expected}$"):
        launch.check_together(check)
    assert left


def test_what_the_first_process_finds_holds_for_all(other_process):
    assert launch.check_together(lambda: 1) == 1
    assert not other_process((None, None))
    assert launch.check_together(lambda: 2) == 2


@pytest.mark.parametrize(
    ("name", "value"), [("MASTER_PORT", "abc"), ("RANK", "one"), ("MASTER_PORT", None)]
)
def test_processes_that_cannot_meet(machine, monkeypatch, name, value):
    for variable in TORCHRUN:
        monkeypatch.setenv(variable, "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    if value is not None:
        monkeypatch.setenv(name, value)
    machine("cpu")
    with pytest.raises(UserError, match=r"cannot meet at 127\.0\.0\.1:.*MASTER_PORT"):
        launch.join(config("pytorch"))


def test_taken_port(machine, monkeypatch):
    with socket.create_server(("", 0)) as taken:
        for name in (*TORCHRUN, *MASTER):
            monkeypatch.setenv(name, "0")
        monkeypatch.setenv("WORLD_SIZE", "1")
        monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        machine("cpu")
        with pytest.raises(UserError, match="EADDRINUSE"):
            launch.join(config("pytorch"))


def test_restarted_processes_do_not_read_what_those_before_have_left(monkeypatch):
    """torchrun keeps the store, with the addresses of dead connections."""
    kept = torch.distributed.HashStore()
    kept.set("address", "dead")
    monkeypatch.setattr(launch, "rendezvous", lambda method: iter([(kept, 0, 2)]))
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert launch._store_of_restart() == {}
    seen = []
    for attempt in ("1", "2"):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", attempt)
        found = launch._store_of_restart()
        assert (found["rank"], found["world_size"]) == (0, 2)
        seen.append(found["store"].check(["address"]))
        found["store"].set("address", "dead again")
    assert seen == [False, False]


class TestSlurm:
    """Slurm's environment becomes torchrun's."""

    @pytest.fixture(autouse=True)
    def _task(self, tmp_path, monkeypatch, machine, joined) -> None:
        """The environment of a task; ``scontrol`` tells what it was asked."""
        for name, value in SLURM.items():
            monkeypatch.setenv(name, value)
        scontrol = tmp_path / "scontrol"
        scontrol.write_text('#!/bin/sh\necho "$1-$2-$3"\necho other\n')
        scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        machine("cpu")

    def test_ranks_and_the_first_machine(self):
        launch.join(config("slurm"))
        assert [os.environ[name] for name in TORCHRUN[:3]] == ["5", "1", "8"]
        assert os.environ["MASTER_ADDR"] == "show-hostnames-node[07-08]"
        assert os.environ["MASTER_PORT"] == "29500"

    def test_the_users_choices_stay(self, monkeypatch):
        monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
        monkeypatch.setenv("MASTER_PORT", "1234")
        launch.join(config("slurm"))
        assert os.environ["MASTER_ADDR"] == "10.0.0.1"
        assert os.environ["MASTER_PORT"] == "1234"

    def test_without_scontrol_the_address_is_asked_for(self, tmp_path):
        (tmp_path / "scontrol").unlink()
        with pytest.raises(UserError, match=r"node\[07-08\]: set MASTER_ADDR"):
            launch.join(config("slurm"))
