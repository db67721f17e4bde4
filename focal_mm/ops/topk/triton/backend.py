"""The entry of the Triton kernels: the operators called with a call's tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.topk.inputs import TopKInputs
from focal_mm.ops.window.triton.backend import why_unavailable, why_unsupported

# Older ones have no custom operators: there the kernels are unavailable.
if hasattr(torch.library, "custom_op"):
    from focal_mm.ops.topk.triton.ops import topk_attention


def triton_topk_attention(inputs: TopKInputs) -> Tensor:
    """Top-K attention without materialised keys, biases, logits or weights."""
    geometry = inputs.geometry
    out, _ = topk_attention(
        inputs.query,
        [inputs.key, *inputs.pooled_keys],
        [inputs.value, *inputs.pooled_values],
        list(inputs.bias_tables),
        [geometry.window_size, geometry.topk, geometry.coarse_levels],
        inputs.scale,
    )
    return out


TRITON_TOPK = Backend(
    name="triton",
    run=triton_topk_attention,
    unavailable_reason=why_unavailable,
    unsupported_reason=why_unsupported,
    # Not preferred on CUDA before the kernels have run on a GPU: by name only.
)
