"""The one registry: key selections, and the backends of each.

A backend is a folder (or file) in the folder of its key selection and an entry here. A
key selection is a folder of its own and an entry here; the module with its parameters
and the backbone's options for it are an entry of
:data:`focal_mm.layers.attention.ATTENTIONS`.
"""

from __future__ import annotations

from typing import NamedTuple

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.topk.naive import NAIVE_TOPK
from focal_mm.ops.topk.sdpa import SDPA_TOPK
from focal_mm.ops.topk.triton import TRITON_TOPK
from focal_mm.ops.window.cpu import CPU
from focal_mm.ops.window.naive import NAIVE
from focal_mm.ops.window.sdpa import SDPA
from focal_mm.ops.window.triton import TRITON

BACKENDS: dict[str, tuple[Backend, ...]] = {
    "window": (SDPA, CPU, TRITON, NAIVE),
    "topk": (SDPA_TOPK, TRITON_TOPK, NAIVE_TOPK),
}
"""By key selection, in order of preference; one that is preferred on a type of device
comes first there."""


class BackendSupport(NamedTuple):
    """Whether a backend can run on this machine.

    Attributes:
        name: The backend.
        ok: Whether it can.
        reason: Why it cannot; empty if it can.
        key_selection: What it computes the attention of.
    """

    name: str
    ok: bool
    reason: str
    key_selection: str


def backend_support() -> list[BackendSupport]:
    """All backends of all key selections, with the reason where one cannot run."""
    support = []
    for key_selection, backends in BACKENDS.items():
        for backend in backends:
            reason = backend.unavailable_reason()
            item = BackendSupport(backend.name, not reason, reason, key_selection)
            support.append(item)
    return support
