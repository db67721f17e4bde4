"""The entry of the Triton kernels: whether they can run, and how they are called."""

from __future__ import annotations

import functools
import importlib.util

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from focal_mm.ops.common.backend import Backend, MapInputs
from focal_mm.ops.window.halo import key_bias as merged_bias
from focal_mm.ops.window.inputs import AttentionInputs

# Older ones have no custom operators: there the kernels are unavailable.
if hasattr(torch.library, "custom_op"):
    from focal_mm.ops.window.triton.ops import attention

MIN_TORCH = "2.4"
MIN_TRITON = "3.6"
MAX_CHANNELS = 64
MAX_BATCH = 2**16 - 1  # Programs along the second axis of a grid.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIN_CAPABILITY = (8, 0)


def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    if not _installed():
        return False
    from focal_mm.ops.window.triton.settings import interpreted

    return interpreted()


@functools.lru_cache
def _why_unavailable() -> str:
    if not hasattr(torch.library, "custom_op"):
        return f"torch {MIN_TORCH} or newer is needed, this is {torch.__version__}"
    if not _installed():
        return "triton is not installed"
    import triton

    if TorchVersion(triton.__version__) < MIN_TRITON:
        return f"triton {MIN_TRITON} or newer is needed, this is {triton.__version__}"
    if not torch.cuda.is_available() and not _interpreted():
        return (
            "there is no CUDA device (TRITON_INTERPRET=1 in the environment runs the "
            "kernels on a CPU, slowly, for tests)"
        )
    return ""


@functools.lru_cache
def _why_not_on(device: torch.device) -> str:
    if _interpreted():
        return ""
    if device.type != "cuda":
        return f"the tensors are on {device.type!r}, not on a CUDA device"
    capability = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return (
            f"compute capability {MIN_CAPABILITY[0]}.{MIN_CAPABILITY[1]} or newer is "
            f"needed, the device has {capability[0]}.{capability[1]}"
        )
    return ""


def _extent(tensor: Tensor) -> int:
    """Elements of memory that one image's tokens span."""
    sides = zip(tensor.shape[1:], tensor.stride()[1:], strict=True)
    return sum((size - 1) * stride for size, stride in sides)


# Compilers take the answers about the machine as constants.
@torch.compiler.assume_constant_result
def why_unavailable() -> str:
    """Why the kernels cannot run on this machine; empty if they can."""
    return _why_unavailable()


@torch.compiler.assume_constant_result
def _why_not_on_constant(device: torch.device) -> str:
    return _why_not_on(device)


def why_unsupported(inputs: MapInputs) -> str:
    """Why the kernels cannot run these inputs; empty if they can."""
    query = inputs.query
    tensors = (query, inputs.key, inputs.value)
    tensors += inputs.pooled_keys + inputs.pooled_values
    dtypes = {tensor.dtype for tensor in tensors}
    if dtypes != {query.dtype} or query.dtype not in DTYPES:
        got = ", ".join(sorted(map(str, dtypes)))
        return (
            "query, keys and values must all be float32, all bfloat16 or all float16, "
            f"got {got}"
        )
    if query.shape[-1] > MAX_CHANNELS:
        return f"heads have {query.shape[-1]} channels, at most {MAX_CHANNELS} can be"
    if inputs.dropout_p:
        return f"attention weights are dropped out (dropout_p={inputs.dropout_p})"
    if query.shape[0] > MAX_BATCH:
        return f"the batch has {query.shape[0]} images, at most {MAX_BATCH} can be"
    if max(map(_extent, tensors)) >= 2**31:
        return "one image has too many tokens for 32-bit offsets"
    return _why_not_on_constant(query.device)


def triton_attention(inputs: AttentionInputs) -> Tensor:
    """Focal attention without materialised keys, logits or weights."""
    query, geometry = inputs.query, inputs.geometry
    pooled = []
    for maps in (inputs.pooled_keys, inputs.pooled_values):
        flat = [tokens.flatten(1, 2) for tokens in maps]
        if not flat:
            flat = [query.new_empty((query.shape[0], 0, *query.shape[3:]))]
        pooled.append(flat[0] if len(flat) == 1 else torch.cat(flat, dim=1))
    sizes = [
        geometry.window_size,
        geometry.expand_size,
        geometry.focal_window,
        geometry.coarse_levels,
        geometry.shift_size,
    ]
    bias = merged_bias(inputs)
    out, _ = attention(
        query, inputs.key, inputs.value, *pooled, bias, sizes, inputs.scale
    )
    return out


TRITON = Backend(
    name="triton",
    run=triton_attention,
    unavailable_reason=why_unavailable,
    unsupported_reason=why_unsupported,
    # Not preferred on CUDA before the kernels have run on a GPU: by name only.
)
