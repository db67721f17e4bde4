"""The one entry to top-K attention: checks its arguments and chooses a backend."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from focal_mm.ops.common.dispatch import check_maps, check_shape, choose_backend
from focal_mm.ops.registry import BACKENDS
from focal_mm.ops.topk.geometry import TopKGeometry, bias_table_size
from focal_mm.ops.topk.inputs import TopKInputs


def _check(inputs: TopKInputs) -> None:
    heads = check_maps(inputs)[3]
    levels, tables = inputs.levels, inputs.bias_tables
    if len(tables) != len(levels):
        raise ValueError(
            f"bias_tables must have one entry for each of {len(levels)} levels, "
            f"got {len(tables)}"
        )
    for number, (level, table) in enumerate(zip(levels, tables, strict=True)):
        size = bias_table_size(level, inputs.geometry.window_size)
        check_shape(f"bias_tables[{number}]", table, (heads, *size))


def topk_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    pooled_keys: Sequence[Tensor],
    pooled_values: Sequence[Tensor],
    bias_tables: Sequence[Tensor],
    *,
    geometry: TopKGeometry,
    scale: float | None = None,
    dropout_p: float = 0.0,
    backend: str = "auto",
) -> Tensor:
    """Window-wise self-attention to the closest tokens (Focal-fast).

    Every query of a window attends to the ``geometry.topk`` tokens of the fine map, and
    to as many of the pooled map, that are closest (Euclidean) to the window's centre.
    A pooled token that covers fine tokens among the keys is a key nevertheless. There
    is no mask and nothing wraps around.

    Args:
        query: (B, H, W, h, d) with H and W multiples of the window size s. Any
            floating dtype.
        key: As ``query``.
        value: As ``query``.
        pooled_keys: Per coarse level (B, H/s, W/s, h, d).
        pooled_values: As ``pooled_keys``.
        bias_tables: Per level, the fine one first: (h, R, C), the bias of each
            query-key offset, with (R, C) and the offsets those of
            :func:`~focal_mm.ops.topk.geometry.offset_grid`.
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
    inputs = TopKInputs(
        query=query,
        key=key,
        value=value,
        pooled_keys=tuple(pooled_keys),
        pooled_values=tuple(pooled_values),
        bias_tables=tuple(bias_tables),
        geometry=geometry,
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        dropout_p=dropout_p,
    )
    _check(inputs)
    return choose_backend(backend, inputs, BACKENDS["topk"]).run(inputs)
