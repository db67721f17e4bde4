"""Triton kernels of top-K attention: listed tokens and their biases read in place."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from focal_mm.ops.common.triton.backend import triton_backend
from focal_mm.ops.common.triton.operator import attention_operator
from focal_mm.ops.topk.geometry import TopKGeometry

if TYPE_CHECKING:
    from focal_mm.ops.topk.triton.launch import TopKCall

__all__ = ["TRITON_TOPK"]


def _call() -> type[TopKCall]:
    from focal_mm.ops.topk.triton.launch import TopKCall

    return TopKCall


topk_attention = attention_operator("topk_attention", _call)

TRITON_TOPK = triton_backend(
    topk_attention,
    [field.name for field in fields(TopKGeometry)],
    lambda inputs: inputs.bias_tables,
)
