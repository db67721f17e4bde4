"""Small models, and backends that are planted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from torch import Tensor

from focal_mm.ops import functional
from focal_mm.ops.common.backend import Backend
from focal_mm.ops.window import AttentionInputs
from focal_mm.ops.window.naive import NAIVE

ARCH = "8:1,1:1,2"


@pytest.fixture
def plant(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Adds a backend that runs ``naive`` on what a function makes of the inputs."""

    def add(
        name: str,
        change: Callable[[AttentionInputs], AttentionInputs] = lambda inputs: inputs,
        finish: Callable[[Tensor], Tensor] = lambda out: out,
    ) -> None:
        backend = Backend(
            name=name,
            run=lambda inputs: finish(NAIVE.run(change(inputs))),
            why_unavailable=lambda: "",
            why_unsupported=lambda inputs: "",
        )
        monkeypatch.setattr(functional, "BACKENDS", (*functional.BACKENDS, backend))

    return add


def detach_key(inputs: AttentionInputs) -> AttentionInputs:
    """The output stays, gradients do not."""
    return dataclasses.replace(inputs, key=inputs.key.detach())
