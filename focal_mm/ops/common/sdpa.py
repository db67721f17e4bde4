"""PyTorch's attention, by a kernel that allows the derivatives that are wanted."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from focal_mm.ops.common.log import log_once
from focal_mm.ops.common.transforms import is_transformed


def biased_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor,
    dropout_p: float,
    scale: float,
) -> Tensor:
    """Softmax attention with a bias of the logits.

    The fused kernels have no batching rules and no forward derivatives: where these
    are asked for, PyTorch's composite of plain operators runs. Nor have they second
    derivatives, which a forward pass cannot foresee: PyTorch raises an error for these,
    unless the call stands within ``sdpa_kernel(SDPBackend.MATH)``.

    Args:
        query: (N, h, queries, d).
        key: (N, h, keys, d).
        value: As ``key``.
        bias: (1 or N, h, queries, keys).
        dropout_p: Probability with which weights are dropped.
        scale: Factor of the queries.

    Returns:
        (N, h, queries, d).
    """
    arguments = query, key, value, bias, dropout_p
    attend = F.scaled_dot_product_attention
    if torch.compiler.is_compiling() or not is_transformed(*arguments[:4]):
        return attend(*arguments, scale=scale)
    log_once("focal attention runs unfused: it is transformed (torch.func, forward AD)")
    with sdpa_kernel(SDPBackend.MATH):
        return attend(*arguments, scale=scale)
