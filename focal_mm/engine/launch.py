"""From a config to a Runner, in one process or in several.

Several processes are one per GPU by NCCL, or some on the CPU by gloo. MMEngine's
launchers and its DDP wrapper assume GPUs: without one, the process group is made here
and the config is adapted to it.
"""

import os
import shlex
import subprocess
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.dist import init_dist
from mmengine.registry import RUNNERS
from mmengine.utils.dl_utils import set_multi_processing
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from focal_mm.checkpoint import CheckpointError
from focal_mm.checkpoint.read import use_safe_loaders
from focal_mm.engine.config import type_name, walk
from focal_mm.engine.errors import UserError
from focal_mm.engine.runner import Runner

T = TypeVar("T")

# What the launchers set for each process, and how they are called.
_LAUNCHERS = {
    "pytorch": ("RANK", "tools/dist_train.sh, tools/dist_test.sh or torchrun"),
    "slurm": ("SLURM_PROCID", "tools/slurm_train.sh, tools/slurm_test.sh or srun"),
}
_SYNC_BN = {"SyncBN", "MMSyncBN", "SyncBatchNorm"}


def join(cfg: Config) -> list[str]:
    """Join the processes of the config's launcher.

    Args:
        cfg: Config with ``launcher`` set; changed in place where there is no GPU.

    Returns:
        Lines for the log.

    Raises:
        UserError: If the launcher's environment or a GPU is missing.
    """
    if cfg.launcher == "none":
        return []
    rank, start = _LAUNCHERS[cfg.launcher]
    if rank not in os.environ:
        raise UserError(
            f"--launcher {cfg.launcher} without {rank} in the environment: start "
            f"through {start}"
        )
    env_cfg = cfg.get("env_cfg", {})
    dist_cfg = dict(env_cfg.get("dist_cfg", {}))
    if get_device() != "cpu":
        _check_gpus()
        # As the Runner does, which then leaves it alone.
        set_multi_processing(**env_cfg.get("mp_cfg", {}), distributed=True)
        _meet(lambda: init_dist(cfg.launcher, **dist_cfg, **_store_of_restart()))
        return []
    if cfg.launcher == "slurm":
        _take_slurm_environment()
    seconds = dist_cfg.get("timeout")
    timeout = {"timeout": timedelta(seconds=seconds)} if seconds else {}
    _meet(lambda: dist.init_process_group("gloo", **timeout, **_store_of_restart()))
    return [
        f"no GPU is visible: {dist.get_world_size()} CPU processes of "
        f"{torch.get_num_threads()} thread(s) each, joined by gloo",
        *adapt_config_to_cpu(cfg),
    ]


def _meet(join_group: Callable[[], None]) -> None:
    """Join a process group.

    Raises:
        UserError: If the first process cannot open the port, or the others do not
            find it.
    """
    try:
        join_group()
    except (RuntimeError, ValueError) as error:
        address = ":".join(os.environ.get(f"MASTER_{n}", "?") for n in ("ADDR", "PORT"))
        raise UserError(
            f"the processes cannot meet at {address} (MASTER_ADDR:MASTER_PORT, or PORT "
            f"of the scripts): {str(error).strip().splitlines()[0]}"
        ) from None


def _store_of_restart() -> dict[str, Any]:
    """Arguments of a process group whose processes torchrun has started again.

    They meet at the store of those before them, where these have left the addresses
    and ids of connections that are dead: PyTorch's static rendezvous keeps it. New ones
    go under a prefix.
    """
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    if attempt == "0":
        return {}
    store, rank, world_size = next(rendezvous("env://"))
    store = dist.PrefixStore(f"attempt_{attempt}", store)
    return dict(store=store, rank=rank, world_size=world_size)


def check_together(check: Callable[[], T]) -> T:
    """Run a check in every process that has joined; one that fails stops them all.

    Machines may have disks of their own: data that one of them lacks must not leave the
    others waiting for it.

    Args:
        check: Raises a UserError or CheckpointError if something is wrong.

    Returns:
        What the first process's check has returned, in all processes.

    Raises:
        UserError: If the check failed elsewhere; here, what it has raised.
    """
    failure = value = None
    try:
        value = check()
    except (UserError, CheckpointError) as error:
        failure = error
    line = str(failure) if failure else None
    results = [(line, value)]
    if dist.is_initialized():
        results = [None] * dist.get_world_size()
        dist.all_gather_object(results, (line, value))
    failed = {rank: text for rank, (text, _) in enumerate(results) if text is not None}
    if failed:
        leave()
        rank, text = next(iter(failed.items()))
        raise failure or UserError(f"process {rank}, on another machine: {text}")
    return results[0][1]


def build_runner(cfg: Config, notes: list[str]) -> Runner:
    """Build what trains or tests.

    Args:
        cfg: Checked config.
        notes: Lines for its log.
    """
    use_safe_loaders()
    runner = RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)
    for note in notes:
        runner.logger.warning(note)
    return runner


def leave() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _check_gpus() -> None:
    """Check that every process of this machine can have a GPU."""
    gpus = torch.cuda.device_count()
    # Set by torchrun. Of Slurm's processes each may see but its own GPU.
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if processes > gpus:
        raise UserError(
            f"{processes} processes need {processes} GPUs, but this machine shows "
            f"{gpus}: start {gpus}, or set CUDA_VISIBLE_DEVICES=-1 to use the CPU"
        )


def _take_slurm_environment() -> None:
    """Set torchrun's environment variables from those that ``srun`` sets.

    ``MASTER_ADDR`` and ``MASTER_PORT`` stay where the user has set them; by default
    they are the job's first machine and 29500, as MMEngine has it.
    """
    os.environ |= {
        "RANK": os.environ["SLURM_PROCID"],
        "LOCAL_RANK": os.environ["SLURM_LOCALID"],
        "WORLD_SIZE": os.environ["SLURM_NTASKS"],
    }
    os.environ.setdefault("MASTER_PORT", "29500")
    if "MASTER_ADDR" not in os.environ:
        nodes = os.environ["SLURM_NODELIST"]
        code, machines = subprocess.getstatusoutput(
            f"scontrol show hostnames {shlex.quote(nodes)}"
        )
        if code != 0:
            raise UserError(
                f"scontrol does not tell the machines of SLURM_NODELIST={nodes}: set "
                "MASTER_ADDR to the first"
            )
        os.environ["MASTER_ADDR"] = machines.split()[0]


def adapt_config_to_cpu(cfg: Config) -> list[str]:
    """Make a config for GPU processes run in CPU processes.

    The DDP wrapper gets no device ids, SyncBN becomes BN.

    Args:
        cfg: Changed in place.

    Returns:
        Lines for the log: one per change that can alter results.
    """
    # By default what MMEngine chooses for itself, less the device ids.
    wrapper = cfg.get("model_wrapper_cfg") or dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    cfg.model_wrapper_cfg = ConfigDict(wrapper, device_ids=None)
    converted = bool(cfg.get("sync_bn"))
    cfg.sync_bn = None
    for _, node in walk(cfg.model):
        if type_name(node.get("type") or "") in _SYNC_BN:
            node["type"], converted = "BN", True
    if not converted:
        return []
    return ["SyncBN does not run on the CPU: each process uses BN on its own batch"]
