"""Running an op on the arguments of one call, and comparing it with the reference."""

import torch

from focal_mm.ops import (
    FocalGeometry,
    TopKGeometry,
    focal_attention,
    topk_attention,
)

OPS = {FocalGeometry: focal_attention, TopKGeometry: topk_attention}
"""By the geometry of a case."""


def tensors_of(case):
    """All differentiable arguments by name."""
    named = {}
    for name, value in case.items():
        if isinstance(value, torch.Tensor):
            named[name] = value
        elif isinstance(value, list):
            named.update({f"{name}[{i}]": tensor for i, tensor in enumerate(value)})
    return named


def in_float64(case):
    """The case with the same values in float64."""

    def widen(value):
        if isinstance(value, list):
            return [widen(tensor) for tensor in value]
        if isinstance(value, torch.Tensor):
            return value.detach().double().requires_grad_()
        return value

    return {name: widen(value) for name, value in case.items()}


def attend(case, backend, **settings):
    """The output of the op that a case is of."""
    return OPS[type(case["geometry"])](**case, backend=backend, **settings)


def run(case, backend, attention=None):
    """Output and the gradient of every argument for a fixed loss."""
    named = tensors_of(case)
    if attention is None:
        output = attend(case, backend)
    else:
        output = attention(**case, backend=backend)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(output.shape, generator=generator).to(output)
    grads = torch.autograd.grad((output * weight).sum(), tuple(named.values()))
    return output.detach(), dict(zip(named, grads, strict=True))


def check_against_naive(case, backend):
    """Output and gradients in float64 are those of the reference."""
    (output, grads), (expected, expected_grads) = (
        run(case, name) for name in (backend, "naive")
    )
    torch.testing.assert_close(output, expected, rtol=1e-9, atol=1e-10)
    for name, grad in grads.items():
        torch.testing.assert_close(
            grad,
            expected_grads[name],
            rtol=1e-9,
            atol=1e-9,
            msg=lambda m, name=name: f"{name}: {m}",
        )


def check_in_its_dtype(case, backend, tolerance, relative_error):
    """Against the reference in float64 on the same rounded inputs."""
    output, grads = run(case, backend)
    assert output.dtype == case["value"].dtype
    expected, expected_grads = run(in_float64(case), "naive")
    assert relative_error(output.double(), expected) < tolerance
    for name, grad in grads.items():
        error = relative_error(grad.double(), expected_grads[name])
        assert error < 3 * tolerance, name
