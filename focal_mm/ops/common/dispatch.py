"""Checking the arguments of a call and choosing its backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from focal_mm.ops.common.backend import Backend, Inputs, MapInputs
from focal_mm.ops.common.log import log_once


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a ValueError unless the argument ``name`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")


def check_range(name: str, value: int, least: int, most: int | None = None) -> None:
    """Raise a ValueError unless ``least <= value <= most``; None is no upper bound."""
    if value < least or (most is not None and value > most):
        wanted = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ValueError(f"{name} must be {wanted}, got {value}")


def check_backend_name(name: str, backends: Sequence[Backend]) -> None:
    """Raise a ValueError unless ``name`` is 'auto' or the name of one of them."""
    check_choice("attn_backend", name, ["auto", *(b.name for b in backends)])


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
        reason = backend.unavailable_reason() or backend.unsupported_reason(inputs)
        if not reason:
            if passed_over and not torch.compiler.is_compiling():
                reasons = "; ".join(passed_over)
                log_once(f"focal attention runs on {backend.name!r}: {reasons}")
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
