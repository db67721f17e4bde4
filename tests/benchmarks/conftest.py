"""A preset small enough to be measured within tests."""

import pytest

from focal_mm.models.presets import ARCHS, Arch


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHS, "toy", Arch(8, (1, 1), (1, 2)))
