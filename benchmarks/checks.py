"""Whether what is fast is also right: every backend against ``naive``."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.measure import Precision, Step, make_images
from benchmarks.models import REFERENCE, Build, Candidate, Shape
from focal_mm.engine.config import describe
from focal_mm.engine.errors import UserError

Run = Callable[[Precision], Mapping[str, Tensor]]

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
    height, width = shape
    while height * width > _MOST_PIXELS[mode] and max(height, width) > 2 * _SHRINK:
        if height >= width:
            height -= _SHRINK
        else:
            width -= _SHRINK
    return height, width


def relative_error(got: Tensor, reference: Tensor) -> float:
    """Largest difference over the reference's largest value; infinite with NaN."""
    if got.shape != reference.shape:
        return math.inf
    largest = reference.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    error = ((got - reference).abs().max() / largest).item()
    return error if math.isfinite(error) else math.inf


def errors(
    who: str, got: Mapping[str, Tensor], reference: Mapping[str, Tensor]
) -> dict[str, float]:
    """:func:`relative_error` of each tensor.

    Raises:
        MismatchError: If one has a tensor that the other has not.
    """
    for name in set(got) ^ set(reference):
        raise MismatchError(
            f"{who} is wrong, nothing is reported: it or the reference lacks the {name}"
        )
    return {name: relative_error(got[name], reference[name]) for name in reference}


def compare(
    who: str,
    got: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    dtype: torch.dtype,
    noise: Mapping[str, float],
) -> dict[str, float]:
    """Compare outputs (names begin with 'output') and gradients (all others).

    Args:
        who: Name in the message.
        got: Tensors by name, float32.
        reference: The same of the reference.
        dtype: What ``who`` computed in; it decides the tolerance.
        noise: By name, the error of the reference's own method in this dtype.

    Returns:
        The largest relative error of 'output' and, where there are some, 'gradient'.

    Raises:
        MismatchError: If one is off by more than is allowed.
    """
    worst: dict[str, float] = {}
    for name, error in errors(who, got, reference).items():
        kind = "output" if name.startswith("output") else "gradient"
        allowed = TOLERANCE[kind][dtype] + 2 * noise.get(name, 0.0)
        if not error <= allowed:
            raise MismatchError(
                f"{who} is wrong, nothing is reported: its {name} is off by "
                f"{error:.1e} of the largest value ({allowed:.1e} is allowed "
                f"in {str(dtype).removeprefix('torch.')})"
            )
        worst[kind] = max(worst.get(kind, 0.0), error)
    return worst


def check(
    who: str, run: Run, reference: Run, precision: Precision
) -> dict[str, dict[str, float]]:
    """Compare with the reference in float32, and in the dtype that is measured.

    Args:
        who: Name in the message.
        run: Computes tensors by name, as :func:`compare` takes them.
        reference: As ``run``; what it computes in float32 is the measure.
        precision: What is measured.

    Returns:
        By dtype what :func:`compare` returns.

    Raises:
        MismatchError: If something is off by more than is allowed.
    """
    exact = Precision(precision.device)
    found = {}
    for how in dict.fromkeys((exact, precision)):
        got, expected = run(how), reference(exact)
        noise = {} if how == exact else errors(REFERENCE, reference(how), expected)
        found[how.name] = compare(who, got, expected, how.dtype, noise)
    return found


def check_candidates(
    candidates: Sequence[Candidate], shape: Shape, mode: str, precision: Precision
) -> tuple[dict[str, Any], dict[str, str]]:
    """Compare Focal Transformers with those of the same weights that run 'naive'.

    Args:
        candidates: The models; Swins are passed over.
        shape: Of the images measured; see :func:`checked_shape`.
        mode: 'inference' or 'training'.
        precision: What is measured.

    Returns:
        By name what :func:`check` returns, and the reasons of those that could not be
        checked.

    Raises:
        MismatchError: If one computes something else.
    """
    images = make_images(checked_shape(shape, mode), 1)

    def runner(build: Build) -> Run:
        return lambda how: Step(build(shape), images, mode, how).outputs()

    references: dict[str, Run] = {}
    found, failed = {}, {}
    for candidate in candidates:
        if candidate.reference is None:
            continue
        if candidate.key_selection not in references:
            reference = functools.cache(runner(candidate.reference))
            references[candidate.key_selection] = reference
        run, reference = runner(candidate.build), references[candidate.key_selection]
        try:
            found[candidate.name] = check(candidate.name, run, reference, precision)
        except MismatchError:
            raise
        except Exception as error:
            # Whatever kernels and compilers raise.
            failed[candidate.name] = describe(error)
    return found, failed


def check_compiled(name: str, step: Step) -> None:
    """Compile a step's model and compare it with itself as it was before.

    Raises:
        MismatchError: If it computes something else.
    """
    expected = step.outputs()
    step.compile()
    compare(f"{name}, compiled,", step.outputs(), expected, step.precision.dtype, {})
