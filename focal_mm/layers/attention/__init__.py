"""The attention modules: projections, biases, and the call into the ops.

A key selection is an entry of :data:`ATTENTIONS`, by the name that
:data:`focal_mm.ops.BACKENDS` has for it.
"""

from focal_mm.layers.attention.base import MultiLevelAttention
from focal_mm.layers.attention.topk import TopKAttention
from focal_mm.layers.attention.window import FocalAttention

ATTENTIONS: dict[str, type[MultiLevelAttention]] = {
    "window": FocalAttention,
    "topk": TopKAttention,
}

__all__ = ["ATTENTIONS", "FocalAttention", "MultiLevelAttention", "TopKAttention"]
