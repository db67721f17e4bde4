"""The most memory that a model and its steps hold at one time.

On a GPU it is what PyTorch's allocator reports. On a CPU PyTorch's profiler records
every allocation and release of its allocator, those inside of kernels and of compiled
code included; they are added up in order. What libraries allocate by themselves
(oneDNN's and MKL's scratch buffers) is in neither.
"""

from __future__ import annotations

import functools
import gc
import os
import warnings
from collections.abc import Callable

import torch
from torch import nn

_EVENT = "[memory]"


def held_bytes(model: nn.Module, optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of parameters, buffers, and the optimizer's state."""
    tensors = [*model.parameters(), *model.buffers()]
    for state in optimizer.state.values() if optimizer else ():
        tensors += [value for value in state.values() if torch.is_tensor(value)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def clear_caches() -> None:
    """Empty the package's caches of masks and indices.

    Whoever is measured next then makes its own, and they count.
    """
    for cached in gc.get_objects():
        # isinstance would ask objects that warn when they are asked.
        if type(cached) is functools._lru_cache_wrapper and str(
            cached.__module__
        ).startswith("focal_mm."):
            cached.cache_clear()


def peak_allocated(run: Callable[[], object], device: torch.device) -> int:
    """Bytes that ``run`` holds at most, beyond what is held before."""
    gc.collect()
    return _peak_cuda(run, device) if device.type == "cuda" else _peak_cpu(run)


def _peak_cuda(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_cpu(run: Callable[[], object]) -> int:
    # Kineto complains of every machine without a GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
        ) as profile:
            run()
    events = [
        event
        for event in profile.profiler.kineto_results.events()
        if event.name() == _EVENT
    ]
    # Older versions of PyTorch have microseconds.
    events.sort(key=lambda e: e.start_ns() if hasattr(e, "start_ns") else e.start_us())
    held = peak = 0
    for event in events:
        held += event.nbytes()
        peak = max(peak, held)
    return peak
