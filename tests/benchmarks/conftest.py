"""Sizes small enough to be measured within tests."""

import pytest

from benchmarks import attention_layer, measure
from focal_mm.models.presets import ARCHS, Arch


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHS, "toy", Arch(8, (1, 1), (1, 2)))
    monkeypatch.setattr(attention_layer, "_MATMUL", {"cpu": 64})
    monkeypatch.setattr(measure, "_TURN", 0.01)
