"""The CPU path: an operator in C++, a window at a time within the cores' caches.

``attention.cpp`` is compiled where focal_mm is installed. It computes in float32 (half
precision too) and has a first derivative. Where more is asked for, PyTorch's own
operators take its place.
"""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import Tensor

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.common.log import log_once
from focal_mm.ops.common.transforms import is_ordinary, plain_backward
from focal_mm.ops.window.geometry import FocalGeometry
from focal_mm.ops.window.inputs import AttentionInputs
from focal_mm.ops.window.sdpa import attend, joined


def _load_operator() -> str:
    """Load the operator; why it cannot be, empty if it can."""
    major, minor = torch.__version__.split(".")[:2]
    library = Path(__file__).with_name(f"_attention_{major}_{minor}.so")
    if not library.is_file():
        return (
            f"its operator was not compiled for PyTorch {major}.{minor}: installing "
            "focal_mm does so where PyTorch and g++ are there before it (pip install "
            "--no-build-isolation)"
        )
    try:
        torch.ops.load_library(library)
    except OSError as error:
        return f"its operator cannot be loaded ({error.__cause__ or error})"
    return ""


_REASON = _load_operator()


class _Attention(torch.autograd.Function):
    """(B, H, W, h, d) from the arguments of :func:`attend`, the sizes first."""

    @staticmethod
    def forward(ctx, geometry, scale, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.sizes = geometry, scale
        inputs = _operands(geometry, scale, *tensors)
        return torch.ops.focal_mm_cpu.forward(*inputs).to(tensors[2].dtype)

    @staticmethod
    def backward(ctx, gradient):
        (geometry, scale), tensors = ctx.sizes, ctx.saved_tensors
        plain = functools.partial(attend, geometry=geometry, scale=scale)
        gradients = plain_backward(plain, tensors, ctx.needs_input_grad[2:], gradient)
        if gradients is None:
            inputs = _operands(geometry, scale, *tensors)
            query, bias, maps = torch.ops.focal_mm_cpu.backward(
                gradient.float(), *inputs
            )
            (key, *pooled_keys), (value, *pooled_values) = zip(*maps, strict=True)
            found = query, key, value, bias, None, *pooled_keys, *pooled_values
            gradients = (
                None if grad is None else grad.to(tensor.dtype)
                for grad, tensor in zip(found, tensors, strict=True)
            )
        return None, None, *gradients


def _operands(
    geometry: FocalGeometry,
    scale: float,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    mask: Tensor | None,
    *pooled: Tensor,
) -> tuple:
    """What the operators take, in float32."""
    levels = range(geometry.coarse_levels)
    keys = [key, *pooled[: len(levels)]]
    values = [value, *pooled[len(levels) :]]
    return (
        query.float(),
        [tensor.float() for tensor in keys],
        [tensor.float() for tensor in values],
        bias.float(),
        mask,
        scale,
        geometry.window_size,
        [geometry.halo_size, *map(geometry.region_size, levels)],
        [geometry.window_size, *map(geometry.stride, levels)],
    )


def cpu_attention(inputs: AttentionInputs) -> Tensor:
    """Focal attention, a window at a time.

    In float64, and where a transform follows the call, 'sdpa' computes it.
    """
    tensors = joined(inputs)
    if is_ordinary(*tensors) and inputs.query.dtype != torch.float64:
        return _Attention.apply(inputs.geometry, inputs.scale, *tensors)
    if not torch.compiler.is_compiling():
        log_once(
            "focal attention runs on 'sdpa' in float64 and where something follows its "
            "tensors"
        )
    return attend(*tensors, geometry=inputs.geometry, scale=inputs.scale)


def _unsupported_reason(inputs: AttentionInputs) -> str:
    if inputs.query.device.type != "cpu":
        return f"its inputs are on {inputs.query.device}"
    if inputs.dropout_p:
        return "it does not drop attention weights"
    return ""


CPU = Backend(
    name="cpu",
    run=cpu_attention,
    unavailable_reason=lambda: _REASON,
    unsupported_reason=_unsupported_reason,
    preferred_on="cpu",
)
