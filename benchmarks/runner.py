"""The order of a measurement: checks first, then memory and times of each cell."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from benchmarks.checking import (
    Check,
    MismatchError,
    check_backends,
    check_compiled,
    describe,
)
from benchmarks.memory import clear_caches, held_bytes, peak_allocated
from benchmarks.models import (
    REFERENCE,
    Contestant,
    Shape,
    build_focal,
    settings_for,
)
from benchmarks.steps import Precision, Runner
from benchmarks.timing import Times, run_rounds, synchronizer
from focal_mm.models.presets import Arch

# A step of training is about three of inference.
_COST = {"inference": 1, "training": 3}
_WARM_UP = 2


class Listener(Protocol):
    """Is told how far a measurement is."""

    def say(self, text: str) -> None:
        """What comes next."""

    def advance(self, cost: float) -> None:
        """So much of the plan's cost is done."""


@dataclass(frozen=True)
class Cell:
    """What is compared with each other.

    Attributes:
        shape: (height, width) of the images.
        batch: Images.
        mode: 'inference' or 'training'.
        compiled: Whether models run through ``torch.compile``.
        settings: Focal settings of ours.
    """

    shape: Shape
    batch: int
    mode: str
    compiled: bool
    settings: str

    @property
    def title(self) -> str:
        height, width = self.shape
        form = ", compiled" if self.compiled else ""
        return f"{height}x{width}, batch {self.batch}, {self.mode}{form}"

    @property
    def cost(self) -> float:
        """Of one step, in pixels of inference."""
        return math.prod(self.shape) * self.batch * _COST[self.mode]


@dataclass(frozen=True)
class Result:
    """What one contestant gave in one cell.

    Attributes:
        cell: The cell.
        contestant: Who.
        times: None where it failed.
        peak_bytes: The most memory that model and steps held; None where it failed.
        failed: Why there are no figures; empty if there are.
    """

    cell: Cell
    contestant: Contestant
    times: Times | None = None
    peak_bytes: int | None = None
    failed: str = ""


@dataclass(frozen=True)
class Plan:
    """Everything that is to be measured.

    Attributes:
        arch: Size of all models.
        contestants: Who.
        shapes: Sizes of the images.
        batches: Images, one number for each shape.
        modes: 'inference' or 'training' or both.
        forms: Whether compiled: False, True, or both.
        precision: Where and how precisely.
        settings: Focal settings for all sizes; None for those of
            :func:`~benchmarks.models.settings_for`.
        rounds: Turns of each contestant in each cell.
        repeats: Steps in a turn.
    """

    arch: Arch
    contestants: Sequence[Contestant]
    shapes: Sequence[Shape]
    batches: Sequence[int]
    modes: Sequence[str]
    forms: Sequence[bool]
    precision: Precision
    settings: str | None
    rounds: int
    repeats: int

    @property
    def cells(self) -> list[Cell]:
        return [
            Cell(shape, batch, mode, form, self.settings or settings_for(shape))
            for shape, batch in zip(self.shapes, self.batches, strict=True)
            for mode in self.modes
            for form in self.forms
        ]

    @property
    def cost(self) -> float:
        """Of everything, in the unit of :attr:`Cell.cost`."""
        steps = 2 + _WARM_UP + self.rounds * self.repeats
        return sum(cell.cost for cell in self.cells) * steps * len(self.contestants)


@dataclass
class Findings:
    """What a measurement has given so far."""

    checks: list[Check] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    complete: bool = False


def measure(
    plan: Plan,
    listener: Listener,
    on_cell: Callable[[Findings], Any] = lambda findings: None,
    findings: Findings | None = None,
) -> Findings:
    """Check all backends, then measure cell after cell.

    Args:
        plan: What.
        listener: Is told how far it is.
        on_cell: Called after each cell.
        findings: Filled in place, for those who look at it after an interruption.

    Raises:
        benchmarks.checking.MismatchError: If a backend computes something else
            than ``naive``. Those of before are without worth then.
    """
    findings = Findings() if findings is None else findings
    refused: dict[tuple[Shape, str], dict[str, str]] = {}
    for shape, mode in dict.fromkeys((cell.shape, cell.mode) for cell in plan.cells):
        listener.say(f"checking {shape[0]}x{shape[1]}, {mode}")
        settings = plan.settings or settings_for(shape)

        def build_reference(_: Shape, settings: str = settings) -> torch.nn.Module:
            # Recomputing activations takes memory down, and changes nothing.
            return build_focal(plan.arch, settings, REFERENCE, with_cp=True)

        checks, refused[shape, mode] = check_backends(
            plan.contestants, build_reference, shape, mode, plan.precision, settings
        )
        findings.checks += checks
    for cell in plan.cells:
        listener.say(cell.title)
        failed = refused[cell.shape, cell.mode]
        findings.results += _measure_cell(plan, cell, failed, listener)
        on_cell(findings)
    findings.complete = True
    on_cell(findings)
    return findings


def _measure_cell(
    plan: Plan, cell: Cell, failed: dict[str, str], listener: Listener
) -> list[Result]:
    failed = dict(failed)
    if cell.compiled:
        torch.compiler.reset()
    runners: dict[str, Runner] = {}
    peaks: dict[str, int] = {}
    for contestant in plan.contestants:
        name = contestant.name
        if name not in failed:
            try:
                runners[name], peaks[name] = _prepare(plan, cell, contestant)
            except MismatchError:
                raise
            except Exception as error:
                # Whatever kernels and compilers raise, and too little memory.
                failed[name] = describe(error)
            if name in failed:
                # Only now is the error gone, and with it what it held.
                _release(plan.precision.device)
        steps = 2 + _WARM_UP + (plan.rounds * plan.repeats if name in failed else 0)
        listener.advance(cell.cost * steps)
    times = run_rounds(
        {name: runner.step for name, runner in runners.items()},
        plan.rounds,
        plan.repeats,
        synchronizer(plan.precision.device),
        on_turn=lambda name: listener.advance(cell.cost * plan.repeats),
    )
    runners.clear()
    _release(plan.precision.device)
    return [
        Result(
            cell,
            contestant,
            times.get(contestant.name),
            peaks.get(contestant.name),
            failed.get(contestant.name, ""),
        )
        for contestant in plan.contestants
    ]


def _prepare(plan: Plan, cell: Cell, contestant: Contestant) -> tuple[Runner, int]:
    """Build it, measure its memory, and warm it up."""
    device = plan.precision.device

    def make() -> Runner:
        return Runner.make(
            contestant, cell.shape, cell.batch, cell.mode, plan.precision, cell.compiled
        )

    runner = make()
    # What compilers and tuners of kernels allocate is not the model's.
    if cell.compiled:
        check_compiled(contestant.name, runner)
        runner.step()
    elif device.type == "cuda":
        runner.step()
        runner = make()
    clear_caches()

    def steps() -> None:
        for _ in range(2):
            runner.step()

    held = held_bytes(runner.model, runner.optimizer)
    peak = held + peak_allocated(steps, device)
    for _ in range(_WARM_UP):
        runner.step()
    return runner, peak


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        with contextlib.suppress(RuntimeError):
            torch.cuda.empty_cache()
