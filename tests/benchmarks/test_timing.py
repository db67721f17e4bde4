"""Times in alternating rounds, with a clock that the steps themselves move."""

import pytest

from benchmarks.timing import Times, run_rounds


class Clock:
    """Seconds that pass only where a step says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.turns: list[str] = []

    def __call__(self) -> float:
        return self.now

    def step(self, name: str, *seconds: float):
        left = list(seconds)

        def run() -> None:
            self.now += left.pop(0)
            self.turns.append(name)

        return run


def test_each_round_begins_with_another():
    clock = Clock()
    steps = {name: clock.step(name, 1, 1, 1, 1) for name in "abc"}
    run_rounds(steps, rounds=4, clock=clock)
    assert "".join(clock.turns) == "abcbcacababc"


def test_best_and_median_of_rounds():
    clock = Clock()
    steps = {"a": clock.step("a", 3, 1, 8), "b": clock.step("b", 2, 2, 5)}
    times = run_rounds(steps, rounds=3, clock=clock)
    assert times["a"] == Times((3, 1, 8))
    assert (times["a"].best, times["a"].median) == (1, 3)
    assert (times["b"].best, times["b"].median) == (2, 2)


def test_repeats_are_timed_together_and_the_device_waited_for():
    """The time that the device still needs belongs to the turn."""
    clock = Clock()
    waiting = []

    def synchronize() -> None:
        while waiting:
            clock.now += waiting.pop()

    def step() -> None:
        clock.now += 0.5
        waiting.append(1.5)

    told = []
    times = run_rounds({"a": step}, 2, 3, synchronize, clock, told.append)
    assert times["a"].seconds == pytest.approx((2.0, 2.0))
    assert told == ["a", "a"]
