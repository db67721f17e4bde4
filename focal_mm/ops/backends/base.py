"""What a backend receives and what it has to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from focal_mm.ops.geometry import FocalGeometry


@dataclass(frozen=True)
class AttentionInputs:
    """Checked arguments of one call of focal attention.

    ``B`` batch, ``H × W`` tokens (multiples of the window size ``s``), ``h`` heads,
    ``d`` channels of a head, ``r_k`` region side of coarse level ``k``.

    Attributes:
        query, key, value: (B, H, W, h, d).
        pooled_keys, pooled_values: Per coarse level (B, Hk, Wk, h, d) with
            ``Hk = H / s * 2^k`` and ``Wk = W / s * 2^k``.
        window_bias: (h, s², s²).
        neighbor_bias: (h, s², num_neighbors), or None where nothing is expanded.
        pooled_biases: Per coarse level (h, s², r_k²).
        geometry: The sizes.
        scale: Factor of the queries.
        dropout_p: Probability with which attention weights are dropped.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    pooled_keys: tuple[Tensor, ...]
    pooled_values: tuple[Tensor, ...]
    window_bias: Tensor
    neighbor_bias: Tensor | None
    pooled_biases: tuple[Tensor, ...]
    geometry: FocalGeometry
    scale: float
    dropout_p: float

    @property
    def grid(self) -> tuple[int, int]:
        """Windows of the map, (rows, columns)."""
        size = self.geometry.window_size
        return self.query.shape[1] // size, self.query.shape[2] // size


@dataclass(frozen=True)
class Backend:
    """One way to compute focal attention.

    Attributes:
        name: Name to choose it by.
        run: Computes (B, H, W, h, d) from the inputs.
        why_unavailable: The reason why it cannot run on this machine at all; empty
            if it can.
        why_unsupported: The reason why it cannot run these inputs; empty if it can.
    """

    name: str
    run: Callable[[AttentionInputs], Tensor]
    why_unavailable: Callable[[], str]
    why_unsupported: Callable[[AttentionInputs], str]
