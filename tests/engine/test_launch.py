"""Several processes without a GPU."""

import pytest
import torch
from mmengine.config import Config

from focal_mm.engine import launch
from focal_mm.engine.errors import UserError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch):
    """Pretends a device type and a number of GPUs."""

    def pretend(device: str, gpus: int = 0) -> None:
        monkeypatch.setattr(launch, "get_device", lambda: device)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)

    return pretend


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_config_keeps_the_wrapper_options_but_no_device_ids():
    cfg = Config(dict(model=dict(), find_unused_parameters=True))
    assert launch.adapt_config_to_cpu(cfg) == []
    assert cfg.model_wrapper_cfg == dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=True,
    )
    assert cfg.env_cfg.dist_cfg.backend == "gloo"

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


@pytest.mark.usefixtures("threads")
def test_cores_are_shared_unless_the_user_says_otherwise(monkeypatch):
    monkeypatch.setattr(launch, "_usable_cores", lambda: 6)
    # So that what is set here is taken back.
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    monkeypatch.setenv(launch._DEFAULT_THREADS, "1")
    assert launch.divide_threads(2) == 3 == torch.get_num_threads()
    assert launch.divide_threads(8) == 1 == torch.get_num_threads()

    torch.set_num_threads(2)
    monkeypatch.delenv(launch._DEFAULT_THREADS)
    assert launch.divide_threads(3) == 2 == torch.get_num_threads()


def test_more_processes_than_gpus(machine):
    machine("cuda", 2)
    launch.check_devices("pytorch", 2)
    launch.check_devices("none", 3)
    with pytest.raises(UserError, match=r"3 processes need 3 GPUs.* shows 2"):
        launch.check_devices("pytorch", 3)


def test_launchers_that_need_gpus(machine):
    machine("cpu")
    launch.check_devices("pytorch", 2)
    launch.check_devices("slurm", 1)
    with pytest.raises(UserError, match="--launcher mpi needs one"):
        launch.check_devices("mpi", 1)


def test_torchrun_environment_is_asked_for(machine, monkeypatch):
    machine("cpu")
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    cfg = Config(dict(model=dict(), launcher="pytorch"))
    with pytest.raises(UserError, match=r"without RANK.*start through"):
        launch.set_up_processes(cfg)
