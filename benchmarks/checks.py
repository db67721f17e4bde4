"""Whether what is fast is also right: every backend against ``naive``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from benchmarks.measure import Precision, Step
from benchmarks.models import Build, Candidate, Shape
from focal_mm.engine.errors import UserError

Tensors = Mapping[str, Tensor]
Run = Callable[[Precision], Tensors]

# Relative to the reference's largest value. That of half precision is a few times the
# dtype's spacing (2^-8 and 2^-11), of which a dozen blocks make so much. There, what
# sums to nearly nothing (gradients of some biases) is noise with every backend, so
# twice the error of ``naive`` itself in this dtype comes on top.
TOLERANCE = {
    "output": {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3},
    "gradient": {torch.float32: 1e-4, torch.bfloat16: 1e-1, torch.float16: 1.5e-2},
}
# Pixels above which a smaller image is checked: ``naive`` needs much memory.
_MOST_PIXELS = {"inference": 896 * 1344, "training": 448 * 448}
# Shrinking by this leaves alone how each stage's map is padded to windows of 7.
_SHRINK = 224


class MismatchError(UserError):
    """A backend that does not compute what ``naive`` does."""


def checked_shape(shape: Shape, mode: str) -> Shape:
    """The size at which backends are checked where ``shape`` is measured."""
    if math.prod(shape) <= _MOST_PIXELS[mode]:
        return shape
    height, width = (min(side, _SHRINK + side % _SHRINK) for side in shape)
    return height, width


def relative_error(got: Tensor, reference: Tensor) -> float:
    """Largest difference over the reference's largest value; infinite with NaN."""
    if got.shape != reference.shape:
        return math.inf
    largest = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    error = ((got - reference).abs().max() / largest).item()
    return error if math.isfinite(error) else math.inf


def compare(
    who: str, got: Tensors, expected: Tensors, own: Tensors, dtype: torch.dtype
) -> None:
    """Compare outputs (names begin with 'output') and gradients (all others).

    Args:
        who: Name in the message.
        got: Tensors by name, float32.
        expected: The same of the reference, computed in float32.
        own: The same of the reference, computed in ``dtype``.
        dtype: What ``who`` computed in; it decides the tolerance.

    Raises:
        MismatchError: If one is off by more than is allowed, or only one side has it.
    """
    wrong = f"{who} is wrong, nothing is reported:"
    for name in set(got) ^ set(expected):
        raise MismatchError(f"{wrong} it or the reference lacks the {name}")
    for name, reference in expected.items():
        kind = "output" if name.startswith("output") else "gradient"
        error = relative_error(got[name], reference)
        allowed = TOLERANCE[kind][dtype] + 2 * relative_error(own[name], reference)
        # Not so where either is NaN, either.
        if not error < allowed:
            raise MismatchError(
                f"{wrong} its {name} is off by {error:.1e} of the largest value "
                f"({allowed:.1e} is allowed in {dtype})"
            )


def check(who: str, run: Run, reference: Run, precision: Precision) -> None:
    """Compare with the reference in float32, and in the dtype that is measured.

    Args:
        who: Name in the message.
        run: Computes tensors by name, as :func:`compare` takes them.
        reference: As ``run``; what it computes in float32 is the measure.
        precision: What is measured.

    Raises:
        MismatchError: If something is off by more than is allowed.
    """
    exact = Precision(precision.device)
    expected = reference(exact)
    for how in dict.fromkeys((exact, precision)):
        own = expected if how == exact else reference(how)
        compare(who, run(how), expected, own, how.dtype)


def outputs(build: Build, shape: Shape, mode: str, how: Precision) -> Tensors:
    """Outputs and in training gradients of a model, at :func:`checked_shape`."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(1, 3, *checked_shape(shape, mode), generator=generator)
    return Step(build(shape), images, mode, how).outputs()


# That of a key selection is the same for all its backends, in one or two dtypes.
_reference_outputs = functools.lru_cache(maxsize=2)(outputs)


@functools.cache
def check_candidate(
    candidate: Candidate, shape: Shape, mode: str, precision: Precision
) -> None:
    """Compare a Focal Transformer with that of the same weights that runs 'naive'.

    Args:
        candidate: The model; of a Swin there is nothing to check.
        shape: Of the images measured.
        mode: 'inference' or 'training'.
        precision: What is measured.

    Raises:
        MismatchError: If it computes something else.
    """
    reference = candidate.reference
    if reference is not None:
        check(
            candidate.name,
            lambda how: outputs(candidate.build, shape, mode, how),
            lambda how: _reference_outputs(reference, shape, mode, how),
            precision,
        )


def check_compiled(name: str, step: Step) -> None:
    """Compile a step's model and compare it with itself as it was before.

    Raises:
        MismatchError: If it computes something else.
    """
    expected = step.outputs()
    step.compile()
    got = step.outputs()
    compare(f"{name}, compiled,", got, expected, expected, step.precision.dtype)
