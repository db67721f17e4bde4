"""The one entry to focal attention: checks its arguments and chooses a backend."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from focal_mm.ops.common.dispatch import check_maps, check_shape, choose_backend
from focal_mm.ops.registry import BACKENDS
from focal_mm.ops.window.geometry import FocalGeometry
from focal_mm.ops.window.inputs import AttentionInputs


def _check(inputs: AttentionInputs) -> None:
    geometry = inputs.geometry
    heads = check_maps(inputs, "pooled_biases")[3]
    area = geometry.window_area
    check_shape("window_bias", inputs.window_bias, (heads, area, area))
    if geometry.expand_size:
        shape = (heads, area, geometry.num_neighbors)
        check_shape("neighbor_bias", inputs.neighbor_bias, shape)
    elif inputs.neighbor_bias is not None:
        raise ValueError("neighbor_bias must be None where expand_size is 0")
    for level in range(geometry.coarse_levels):
        shape = (heads, area, geometry.region_size(level) ** 2)
        check_shape(f"pooled_biases[{level}]", inputs.pooled_biases[level], shape)


def focal_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_keys: Sequence[Tensor],
    pooled_values: Sequence[Tensor],
    window_bias: Tensor,
    neighbor_bias: Tensor | None,
    pooled_biases: Sequence[Tensor],
    *,
    geometry: FocalGeometry,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Window-wise focal self-attention (paper, section 3.2.1 and equation 3).

    Every query of a window attends to the window's tokens, to the tokens around it
    at fine granularity and, per coarse level, to pooled tokens in a larger region.
    The map wraps around at its border for fine keys and ends there for pooled ones.

    Args:
        query: (B, H, W, h, d) with H and W multiples of the window size s; already
            rolled where ``geometry.shift_size`` is not 0. Any floating dtype.
        key: As ``query``.
        value: As ``query``.
        pooled_keys: Per coarse level k (B, H/s * 2^k, W/s * 2^k, h, d).
        pooled_values: As ``pooled_keys``.
        window_bias: (h, s², s²).
        neighbor_bias: (h, s², geometry.num_neighbors) in the released tables'
            order; None where ``geometry.expand_size`` is 0.
        pooled_biases: Per coarse level k (h, s², r_k²) with
            r_k = ``geometry.region_size(k)``.
        geometry: The sizes.
        scale: Factor of the queries. Default: ``d ** -0.5``.
        dropout_p: Probability with which attention weights are dropped.
        backend: 'auto' for the first backend that can run, or the name of one.

    Returns:
        (B, H, W, h, d), the dtype of ``value``.

    Raises:
        ValueError: If shapes do not fit together, or the named backend is unknown or
            cannot run these inputs (the message says why).
    """
    inputs = AttentionInputs(
        query=query,
        key=key,
        value=value,
        pooled_keys=tuple(pooled_keys),
        pooled_values=tuple(pooled_values),
        window_bias=window_bias,
        neighbor_bias=neighbor_bias,
        pooled_biases=tuple(pooled_biases),
        geometry=geometry,
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        dropout_p=dropout_p,
    )
    _check(inputs)
    return choose_backend(backend, inputs, BACKENDS["window"]).run(inputs)
