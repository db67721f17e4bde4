"""Who follows a call: compilers, transforms, modes that know PyTorch's operators.

Some paths here are made of operators without batching rules, forward derivatives or
second derivatives. They are for ordinary tensors; where more is asked for, the plain
path is taken, which PyTorch knows everything about.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.utils._python_dispatch as python_dispatch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

# PyTorch has no public names for the next three. Should one of them go, the plain path
# is always taken, and the tests fail.


def _transforms_active() -> bool:
    """Whether ``torch.func`` transforms this call."""
    ask = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
    return ask()


def _is_batched(gradient: Tensor) -> bool:
    """Whether several backward passes run at once (``is_grads_batched``)."""
    functorch = getattr(torch._C, "_functorch", None)
    return getattr(functorch, "is_legacy_batchedtensor", lambda _: True)(gradient)


def _mode_active() -> bool:
    """Whether a dispatch mode sees each operator."""
    mode = getattr(python_dispatch, "_get_current_dispatch_mode", lambda: True)
    return mode() is not None


def is_watched() -> bool:
    """Whether a compiler, a transform or a dispatch mode follows each operator."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return _transforms_active() or _mode_active()


def is_transformed(*tensors: Tensor | None) -> bool:
    """Whether more than a first derivative is wanted of a call of these tensors.

    That is under the transforms of ``torch.func``, in batched backward passes, and with
    tangents of forward-mode differentiation.
    """
    return _transforms_active() or any(
        _is_batched(tensor) or forward_ad.unpack_dual(tensor).tangent is not None
        for tensor in tensors
        if tensor is not None
    )


def is_ordinary(*tensors: Tensor | None) -> bool:
    """Whether these are tensors with numbers, which nobody follows through a call.

    Not subclasses (sharded, fake, quantised ones), nothing that is traced or
    transformed.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    types = {type(tensor) for tensor in tensors if tensor is not None}
    return types <= {Tensor, nn.Parameter} and not is_transformed(*tensors)


def plain_backward(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    needed: Sequence[bool],
    gradient: Tensor,
) -> tuple[Tensor | None, ...] | None:
    """What a backward pass has to return where its own result has no derivatives.

    Args:
        function: The plain path of the forward pass.
        inputs: Its arguments, as they were saved.
        needed: Which of them need a gradient.
        gradient: That of the output.

    Returns:
        Gradients of the inputs, differentiable as often as the plain path is; None
        for those that need none. None for all in an ordinary first backward pass,
        where the fast path is right.
    """
    create_graph = torch.is_grad_enabled()
    if not create_graph and is_ordinary(gradient):
        return None
    # The fused attention kernels have no second derivatives.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        # Aliases: one input may have been computed from another.
        aliases = [
            tensor.view_as(tensor) if need else tensor
            for tensor, need in zip(inputs, needed, strict=True)
        ]
        wanted = [alias for alias, need in zip(aliases, needed, strict=True) if need]
        output = function(*aliases)
        found = torch.autograd.grad(output, wanted, gradient, create_graph=create_graph)
    gradients = iter(found)
    return tuple(next(gradients) if need else None for need in needed)
