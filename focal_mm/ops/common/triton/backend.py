"""The entry of the Triton kernels: whether they can run, and how they are called."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from focal_mm.ops.common.backend import Backend, Inputs, MapInputs

MIN_TRITON = (3, 6)
MAX_CHANNELS = 64
MAX_BATCH = 2**16 - 1  # Programs along the second axis of a grid.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MIN_CAPABILITY = (8, 0)


def _installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def _interpreted() -> bool:
    if not _installed():
        return False
    from focal_mm.ops.common.triton.settings import interpreted

    return interpreted()


@functools.lru_cache
def _machine_reason() -> str:
    if not _installed():
        return "triton is not installed"
    import triton

    if tuple(map(int, triton.__version__.split(".")[:2])) < MIN_TRITON:
        needed = ".".join(map(str, MIN_TRITON))
        return f"triton {needed} or newer is needed, this is {triton.__version__}"
    if not torch.cuda.is_available() and not _interpreted():
        return (
            "there is no CUDA device (TRITON_INTERPRET=1 in the environment runs the "
            "kernels on a CPU, slowly, for tests)"
        )
    return ""


@functools.lru_cache
def _device_reason(device: torch.device) -> str:
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
def unavailable_reason() -> str:
    """Why the kernels cannot run on this machine; empty if they can."""
    return _machine_reason()


@torch.compiler.assume_constant_result
def _constant_device_reason(device: torch.device) -> str:
    return _device_reason(device)


def unsupported_reason(inputs: MapInputs) -> str:
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
    return _constant_device_reason(query.device)


def triton_backend(
    operator: torch.library.CustomOpDef,
    sizes: Sequence[str],
    biases: Callable[[Inputs], Sequence[Tensor]],
) -> Backend[Inputs]:
    """The backend that calls an operator.

    Args:
        operator: As ``attention_operator`` makes it.
        sizes: Names of the geometry's fields in their order.
        biases: Gives each group's bias, as the key selection has them.
    """

    def run(inputs: Inputs) -> Tensor:
        out, _ = operator(
            inputs.query,
            [inputs.key, *inputs.pooled_keys],
            [inputs.value, *inputs.pooled_values],
            list(biases(inputs)),
            [getattr(inputs.geometry, name) for name in sizes],
            inputs.scale,
        )
        return out

    return Backend(
        name="triton",
        run=run,
        unavailable_reason=unavailable_reason,
        unsupported_reason=unsupported_reason,
        # Not preferred on CUDA before the kernels have run on a GPU: by name only.
    )
