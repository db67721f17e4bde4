"""Triton kernels for NVIDIA GPUs: the halo and the pooled region read in place."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from torch import Tensor

from focal_mm.ops.common.triton.backend import triton_backend
from focal_mm.ops.common.triton.operator import attention_operator
from focal_mm.ops.window.geometry import FocalGeometry, merge_halo_bias
from focal_mm.ops.window.inputs import AttentionInputs

if TYPE_CHECKING:
    from focal_mm.ops.window.triton.launch import WindowCall

__all__ = ["TRITON"]


def _call() -> type[WindowCall]:
    from focal_mm.ops.window.triton.launch import WindowCall

    return WindowCall


def _biases(inputs: AttentionInputs) -> tuple[Tensor, ...]:
    """Bias of the halo, (h, s², keys), then of each coarse level."""
    geometry, fine = inputs.geometry, inputs.window_bias
    if inputs.neighbor_bias is not None:
        sizes = geometry.window_size, geometry.expand_size
        fine = merge_halo_bias(fine, inputs.neighbor_bias, *sizes)
    return (fine, *inputs.pooled_biases)


attention = attention_operator("attention", _call)

TRITON = triton_backend(attention, [f.name for f in fields(FocalGeometry)], _biases)
