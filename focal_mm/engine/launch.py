"""Several processes: one per GPU by NCCL, or some on the CPU by gloo.

MMEngine's launchers and its DDP wrapper assume GPUs. Without one, the process group
is made here, before the Runner (which then leaves it alone), and the config is
adapted to it.
"""

import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from torch import distributed as dist

from focal_mm.engine import slurm
from focal_mm.engine.errors import UserError

# dist_train.sh and dist_test.sh set OMP_NUM_THREADS where the user has not, because
# torchrun would (and say so at length); this variable tells the two cases apart.
_DEFAULT_THREADS = "FOCAL_MM_DEFAULT_THREADS"
# The launchers that also start processes without GPUs: what they set, how they start.
_ENVIRONMENTS = {
    "pytorch": (
        ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
        "tools/dist_train.sh, tools/dist_test.sh or torchrun",
    ),
    "slurm": (slurm.NEEDED, "tools/slurm_train.sh, tools/slurm_test.sh or srun"),
}
_SYNC_BN = {"SyncBN", "MMSyncBN", "SyncBatchNorm"}


def local_processes() -> int:
    """Processes that torchrun starts on this machine; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def check_devices(launcher: str, processes: int) -> None:
    """Check that every process of this machine can have a device.

    Args:
        launcher: ``none``, ``pytorch``, ``slurm`` or ``mpi``.
        processes: Processes on this machine.

    Raises:
        UserError: If not.
    """
    if launcher == "none":
        return
    device, gpus = get_device(), torch.cuda.device_count()
    if device == "cuda" and processes > gpus:
        raise UserError(
            f"{processes} processes need {processes} GPUs, but this machine shows "
            f"{gpus}: start {gpus}, or set CUDA_VISIBLE_DEVICES=-1 to use the CPU"
        )
    if device == "mps":
        raise UserError("several processes cannot share an mps device: start only one")
    if device == "cpu" and launcher not in _ENVIRONMENTS:
        raise UserError(
            f"no GPU is visible, and --launcher {launcher} needs one per process: "
            "on CPUs use tools/dist_train.sh or tools/dist_test.sh"
        )


def set_up_processes(cfg: Config) -> list[str]:
    """Prepare the processes and the config for the devices of this machine.

    With GPUs, MMEngine does it all by itself later.

    Args:
        cfg: Config with ``launcher`` set; changed in place where there is no GPU.

    Returns:
        Lines for the log.

    Raises:
        UserError: If the launcher's environment or a device is missing.
    """
    if cfg.launcher == "none":
        return []
    check_devices(cfg.launcher, local_processes())
    _check_environment(cfg.launcher)
    if get_device() != "cpu":
        return []
    if cfg.launcher == "slurm":
        slurm.take_slurm_environment()
    timeout = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout")
    dist.init_process_group(
        "gloo", timeout=timedelta(seconds=timeout) if timeout else None
    )
    threads = divide_threads(local_processes())
    return [
        f"no GPU is visible: {dist.get_world_size()} CPU processes of {threads} "
        "thread(s) each, joined by gloo",
        *adapt_config_to_cpu(cfg),
    ]


def tear_down_processes() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _check_environment(launcher: str) -> None:
    needed, start = _ENVIRONMENTS.get(launcher, ((), ""))
    missing = [name for name in needed if name not in os.environ]
    if missing:
        raise UserError(
            f"--launcher {launcher} without {', '.join(missing)} in the environment: "
            f"start through {start}"
        )


def divide_threads(processes: int) -> int:
    """Share this machine's cores among its processes.

    The user's own ``OMP_NUM_THREADS`` is left as it is.

    Args:
        processes: Processes on this machine.

    Returns:
        Threads of this process.
    """
    if "OMP_NUM_THREADS" in os.environ and _DEFAULT_THREADS not in os.environ:
        return torch.get_num_threads()
    threads = max(1, _usable_cores() // processes)
    torch.set_num_threads(threads)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    return threads


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def adapt_config_to_cpu(cfg: Config) -> list[str]:
    """Make a config for GPU processes run in CPU processes.

    ``model_wrapper_cfg`` gets no device ids, SyncBN becomes BN, the backend gloo.

    Args:
        cfg: Changed in place.

    Returns:
        Lines for the log: one per change that can alter results.
    """
    wrapper = cfg.get("model_wrapper_cfg")
    if wrapper is None:
        # What MMEngine chooses for itself, less the device ids.
        wrapper = dict(
            broadcast_buffers=False,
            find_unused_parameters=cfg.get("find_unused_parameters", False),
        )
    cfg.model_wrapper_cfg = ConfigDict(wrapper)
    kind = cfg.model_wrapper_cfg.setdefault("type", "MMDistributedDataParallel")
    if type_name(kind).endswith("DistributedDataParallel"):
        cfg.model_wrapper_cfg.device_ids = None
    cfg.merge_from_dict({"env_cfg.dist_cfg.backend": "gloo"})

    converted = [node for node in dicts_within(cfg.model) if _is_sync_bn(node)]
    for node in converted:
        node["type"] = "BN"
    if cfg.get("sync_bn"):
        cfg.sync_bn = None
        converted.append({})
    if not converted:
        return []
    return ["SyncBN does not run on the CPU: each process uses BN on its own batch"]


def type_name(kind: Any) -> str:
    """Name of a config's ``type``, which may be a string or a class."""
    return (kind if isinstance(kind, str) else kind.__name__).rsplit(".", 1)[-1]


def _is_sync_bn(node: dict) -> bool:
    return node.get("type") is not None and type_name(node["type"]) in _SYNC_BN


def dicts_within(node: Any) -> Iterator[dict]:
    """All dicts within a config, itself included."""
    if isinstance(node, dict):
        yield node
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            yield from dicts_within(child)
