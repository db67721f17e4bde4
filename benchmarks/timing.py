"""Times of steps that are taken in turns."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Times:
    """Seconds of one step, one entry for each round."""

    seconds: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.seconds)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done all its work."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def run_rounds(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    repeats: int = 1,
    synchronize: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
    on_turn: Callable[[str], None] = lambda name: None,
) -> dict[str, Times]:
    """Time steps in alternating rounds.

    In each round every step has one turn, so that whatever slows the machine for a
    while slows all of them. Each round begins with another one: none always follows
    the same.

    Args:
        steps: What to time, by name.
        rounds: Turns of each.
        repeats: Runs in one turn, timed together.
        synchronize: Waits for the device.
        clock: Seconds.
        on_turn: Told the name after each turn, outside the measured time.
    """
    names = list(steps)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        gc.collect()
        first = number % len(names) if names else 0
        for name in names[first:] + names[:first]:
            step = steps[name]
            synchronize()
            start = clock()
            for _ in range(repeats):
                step()
            synchronize()
            seconds[name].append((clock() - start) / repeats)
            on_turn(name)
    return {name: Times(tuple(values)) for name, values in seconds.items()}
