"""What a backend receives and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from torch import Tensor

from focal_mm.ops.common.pyramid import WindowPyramid


@dataclass(frozen=True)
class MapInputs:
    """Checked arguments of one call that all key selections have.

    ``B`` batch, ``H × W`` tokens (multiples of the window size ``s``), ``h`` heads,
    ``d`` channels of a head.

    Attributes:
        query, key, value: (B, H, W, h, d).
        pooled_keys, pooled_values: Per coarse level (B, Hk, Wk, h, d) with
            ``Hk = H / s * 2^k`` and ``Wk = W / s * 2^k``.
        geometry: The sizes.
        scale: Factor of the queries.
        dropout_p: Probability with which attention weights are dropped.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    pooled_keys: tuple[Tensor, ...]
    pooled_values: tuple[Tensor, ...]
    geometry: WindowPyramid
    scale: float
    dropout_p: float

    @property
    def grid(self) -> tuple[int, int]:
        """Windows of the map, (rows, columns)."""
        size = self.geometry.window_size
        return self.query.shape[1] // size, self.query.shape[2] // size


Inputs = TypeVar("Inputs", bound=MapInputs)


def _no_reason(*_: MapInputs) -> str:
    return ""


@dataclass(frozen=True)
class Backend(Generic[Inputs]):
    """One way to compute focal attention of one key selection.

    Attributes:
        name: Name to choose it by.
        run: Computes (B, H, W, h, d) from the inputs.
        unavailable_reason: Says why it cannot run on this machine at all; empty if it
            can.
        unsupported_reason: Says why it cannot run these inputs; empty if it can.
        preferred_on: Type of the devices on which it comes before the others.
    """

    name: str
    run: Callable[[Inputs], Tensor]
    unavailable_reason: Callable[[], str] = _no_reason
    unsupported_reason: Callable[[Inputs], str] = _no_reason
    preferred_on: str = ""
