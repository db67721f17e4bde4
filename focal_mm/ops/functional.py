"""The one entry to focal attention: checks its arguments and chooses a backend."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmengine.logging import print_log
from torch import Tensor

from focal_mm.ops.backends import BACKENDS, AttentionInputs, Backend
from focal_mm.ops.backends.base import Inputs, MapInputs
from focal_mm.ops.geometry import FocalGeometry


class BackendSupport(NamedTuple):
    """Whether a backend can run on this machine.

    Attributes:
        name: The backend.
        ok: Whether it can.
        reason: Why it cannot; empty if it can.
    """

    name: str
    ok: bool
    reason: str


def backend_support() -> list[BackendSupport]:
    """All backends in order of preference, with the reason where one cannot run."""
    support = []
    for backend in BACKENDS:
        reason = backend.why_unavailable()
        support.append(BackendSupport(backend.name, not reason, reason))
    return support


def check_backend_name(name: str, backends: Sequence[Backend] | None = None) -> None:
    """Raise a ValueError unless ``name`` is 'auto' or a backend's name.

    Args:
        name: The name.
        backends: What there is to choose from. Default: those of
            :func:`focal_attention`.
    """
    backends = BACKENDS if backends is None else backends
    allowed = ["auto", *(backend.name for backend in backends)]
    if name not in allowed:
        raise ValueError(f"attn_backend must be one of {allowed}, got {name!r}")


@functools.lru_cache(maxsize=64)
def _log_once(message: str) -> None:
    print_log(message, logger="current")


def choose_backend(
    name: str, inputs: Inputs, backends: Sequence[Backend[Inputs]]
) -> Backend[Inputs]:
    """The named backend, or with 'auto' the first one that can run the inputs.

    Raises:
        ValueError: If the name is unknown, or nothing can run; the message says why.
    """
    check_backend_name(name, backends)
    passed_over = []
    device = inputs.query.device.type
    for backend in sorted(backends, key=lambda b: b.preferred_on != device):
        if name not in ("auto", backend.name):
            continue
        reason = backend.why_unavailable() or backend.why_unsupported(inputs)
        if not reason:
            if passed_over and not torch.compiler.is_compiling():
                reasons = "; ".join(passed_over)
                _log_once(f"focal attention runs on {backend.name!r}: {reasons}")
            return backend
        passed_over.append(f"{backend.name!r} cannot run because {reason}")
    raise ValueError(f"focal attention: {'; '.join(passed_over)}")


def check_shape(name: str, tensor: Tensor | None, shape: Sequence[int]) -> None:
    """Raise a ValueError that names the tensor unless it has the shape."""
    got = None if tensor is None else tuple(tensor.shape)
    if got != tuple(shape):
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {got}")


def check_maps(inputs: MapInputs, *per_level: str) -> tuple[int, int, int, int, int]:
    """Check what all key selections have: queries, keys and values of all levels.

    Args:
        inputs: The arguments of a call.
        per_level: Names of further arguments with one entry per coarse level.

    Returns:
        The shape of the query, (B, H, W, h, d).

    Raises:
        ValueError: If a shape does not fit; the message names the argument.
    """
    geometry = inputs.geometry
    if inputs.query.dim() != 5:
        raise ValueError(
            "query must have the shape (batch, height, width, heads, channels), "
            f"got {tuple(inputs.query.shape)}"
        )
    batch, height, width, heads, channels = inputs.query.shape
    size = geometry.window_size
    if height % size or width % size or not height or not width:
        raise ValueError(
            f"height and width of query must be multiples of window_size={size}, "
            f"got {height} and {width}"
        )
    check_shape("key", inputs.key, inputs.query.shape)
    check_shape("value", inputs.value, inputs.query.shape)
    for name in ("pooled_keys", "pooled_values", *per_level):
        if len(getattr(inputs, name)) != geometry.coarse_levels:
            raise ValueError(
                f"{name} must have coarse_levels={geometry.coarse_levels} entries, "
                f"got {len(getattr(inputs, name))}"
            )
    for level in range(geometry.coarse_levels):
        pooled = [geometry.num_pooled(side, level) for side in (height, width)]
        shape = (batch, *pooled, heads, channels)
        check_shape(f"pooled_keys[{level}]", inputs.pooled_keys[level], shape)
        check_shape(f"pooled_values[{level}]", inputs.pooled_values[level], shape)
    return batch, height, width, heads, channels


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
    return choose_backend(backend, inputs, BACKENDS).run(inputs)
