"""The backends of :func:`focal_mm.ops.focal_attention`, in order of preference.

One that is preferred on a type of device comes first there.
"""

from focal_mm.ops.common.backend import Backend
from focal_mm.ops.window.cpu import CPU
from focal_mm.ops.window.inputs import AttentionInputs
from focal_mm.ops.window.naive import NAIVE
from focal_mm.ops.window.sdpa import SDPA
from focal_mm.ops.window.triton import TRITON

BACKENDS: tuple[Backend[AttentionInputs], ...] = (SDPA, CPU, TRITON, NAIVE)
