"""How steps are taken, timed, and their memory counted."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import profiler

MODES = ("inference", "training")
DTYPES = ("float32", "bfloat16", "float16")
Name = TypeVar("Name")

# Seconds that are filled by repeating a short step in its turn, up to 100 times.
_TURN = 0.1


class Precision(NamedTuple):
    """Where and how precisely a model computes.

    Weights and images are float32. With a half-precision dtype both modes run under
    ``torch.autocast``: some libraries' Swins do not run with their weights cast.
    """

    device: torch.device
    dtype: torch.dtype = torch.float32

    def autocast(self) -> torch.autocast:
        half = self.dtype != torch.float32
        dtype = self.dtype if half else None
        return torch.autocast(self.device.type, dtype, enabled=half)


class Step:
    """One inference, or one step of training: forward, backward, AdamW.

    Args:
        model: A backbone in float32; it is moved to the device.
        images: (N, 3, height, width), float32.
        mode: One of :data:`MODES`.
        precision: Where and how precisely it computes.
    """

    def __init__(
        self, model: nn.Module, images: Tensor, mode: str, precision: Precision
    ) -> None:
        self.model = model.to(precision.device)
        # That of mmdet's Swin returns nothing.
        self.model.train(mode == "training")
        self.images = images.to(precision.device)
        self.precision = precision
        self.optimizer: torch.optim.Optimizer | None = None
        if mode == "training":
            self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        self._called: Callable[[Tensor], Sequence[Tensor]] = self.model
        self._gradients: list[Tensor] | None = None

    def compile(self) -> None:
        """Call the model through ``torch.compile`` from now on."""
        self._called = torch.compile(self.model, dynamic=False)

    def __call__(self) -> None:
        maps = self._forward()
        if self.optimizer is not None:
            self._backward(maps)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def outputs(self) -> dict[str, Tensor]:
        """What the model computes, by name, in float32.

        In training the gradients of all parameters are there too; afterwards the
        model has none.
        """
        maps = self._forward()
        found = {f"output {index}": m.detach().float() for index, m in enumerate(maps)}
        if self.optimizer is None:
            return found
        self._backward(maps)
        for name, parameter in self.model.named_parameters():
            if parameter.grad is not None:
                found[f"gradient of {name}"] = parameter.grad
                parameter.grad = None
        return found

    def _forward(self) -> tuple[Tensor, ...]:
        inference = torch.inference_mode(self.optimizer is None)
        with inference, self.precision.autocast():
            return tuple(self._called(self.images))

    def _backward(self, maps: Sequence[Tensor]) -> None:
        if self._gradients is None:
            # Noise of norm 1 in each map stands for what a loss would send.
            generator = torch.Generator().manual_seed(1)
            self._gradients = [
                torch.randn(m.shape, generator=generator).div(m.numel() ** 0.5).to(m)
                for m in maps
            ]
        torch.autograd.backward(maps, self._gradients)

    def peak_bytes(self) -> int:
        """Bytes that parameters, optimizer and a step hold at most in PyTorch's
        allocator: a step is taken.

        What libraries allocate by themselves (oneDNN's and MKL's scratch buffers) is
        not in it, nor are tables and masks that steps before have cached.
        """
        held = [*self.model.parameters(), *self.model.buffers()]
        for state in self.optimizer.state.values() if self.optimizer else ():
            held += [value for value in state.values() if torch.is_tensor(value)]
        gc.collect()
        peak = peak_cuda if self.precision.device.type == "cuda" else peak_cpu
        return sum(tensor.nbytes for tensor in held) + peak(self)


def peak_cuda(run: Callable[[], object]) -> int:
    """Most bytes that ``run`` holds at one time beside what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def peak_cpu(run: Callable[[], object]) -> int:
    """As :func:`peak_cuda`: the profiler's record of allocations, added up in order.

    The process's own peak would not do: an allocator that is warm keeps what others
    have freed.
    """
    # Kineto complains of every machine without a GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profiler.profile(profile_memory=True) as profile:
        run()
    events = [e for e in profile.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def run_rounds(
    steps: Mapping[Name, Callable[[], object]],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Name, list[float]]:
    """Time steps in alternating rounds.

    In each round every step has one turn, so that whatever slows the machine for a
    while slows all of them. Each round begins with another one: none always follows
    the same.

    Args:
        steps: What to time, by name.
        rounds: Turns of each.
        device: Is waited for.
        clock: Seconds.

    Returns:
        Seconds of one step, one entry for each round.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def turn(step: Callable[[], object], repeats: int) -> float:
        wait()
        start = clock()
        for _ in range(repeats):
            step()
        wait()
        return (clock() - start) / repeats

    repeats: dict[Name, int] = {}
    for name, step in steps.items():
        step()
        repeats[name] = max(1, round(_TURN / max(turn(step, 1), _TURN / 100)))
    names = list(steps)
    seconds: dict[Name, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        gc.collect()
        first = number % max(1, len(names))
        for name in names[first:] + names[:first]:
            seconds[name].append(turn(steps[name], repeats[name]))
    return seconds


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Rounds, median, and spread (interquartile range over median), as in JSON."""
    median = statistics.median(seconds)
    spread = 0.0
    if len(seconds) > 1:
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        spread = (high - low) / median
    return {"seconds": list(seconds), "median_seconds": median, "spread": spread}
