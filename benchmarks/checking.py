"""Whether what is fast is also right: every backend against ``naive``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.models import REFERENCE, Build, Contestant, Shape
from benchmarks.steps import (
    Precision,
    Runner,
    make_images,
    outputs_and_gradients,
)
from focal_mm.engine.errors import UserError

# Relative to the reference's largest value. That of half precision is a few times the
# dtype's spacing (2^-8 and 2^-11), of which a dozen blocks make so much. There, what
# sums to nearly nothing (gradients of some biases) is noise with every backend, so
# twice the error of ``naive`` itself in this dtype comes on top.
OUTPUT_TOLERANCE = {
    torch.float32: 1e-5,
    torch.bfloat16: 3e-2,
    torch.float16: 4e-3,
}
GRADIENT_TOLERANCE = {
    torch.float32: 1e-4,
    torch.bfloat16: 1e-1,
    torch.float16: 1.5e-2,
}
# Pixels above which a smaller image is checked: ``naive`` needs much memory.
CHECKED_PIXELS = {"inference": 896 * 1344, "training": 448 * 448}
# Shrinking by this leaves alone how each stage's map is padded to windows of 7.
STEP = 224


class MismatchError(UserError):
    """A backend that does not compute what ``naive`` does."""


@dataclass(frozen=True)
class Check:
    """How far a backend is from ``naive`` in float32.

    Attributes:
        backend: The backend.
        settings: The models' focal settings.
        mode: 'inference' or 'training'.
        dtype: What the backend computed in.
        height, width: Size of the image.
        output: Largest difference over the reference's largest value.
        gradient: The same of the worst parameter's gradient; None at inference.
    """

    backend: str
    settings: str
    mode: str
    dtype: str
    height: int
    width: int
    output: float
    gradient: float | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def checked_shape(shape: Shape, mode: str) -> Shape:
    """The size at which backends are checked where ``shape`` is measured."""
    height, width = shape
    while height * width > CHECKED_PIXELS[mode] and max(height, width) > 2 * STEP:
        if height >= width:
            height -= STEP
        else:
            width -= STEP
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
    missing = set(got) ^ set(reference)
    if missing:
        raise MismatchError(
            f"{who} is wrong, nothing is reported: it or the reference lacks the "
            f"{min(missing)}"
        )
    return {key: relative_error(got[key], value) for key, value in reference.items()}


def compare(
    who: str,
    got: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    dtype: torch.dtype,
    noise: Mapping[str, float] | None = None,
) -> tuple[float, float | None]:
    """Largest errors of outputs and of gradients (None where there are none).

    Args:
        who: What errors call it.
        got: What :func:`~benchmarks.steps.outputs_and_gradients` gives.
        reference: The same of the reference.
        dtype: What ``got`` was computed in.
        noise: Errors of the reference itself in this dtype.

    Raises:
        MismatchError: If one is beyond what is allowed.
    """
    worst: dict[bool, float] = {}
    for name, error in errors(who, got, reference).items():
        is_output = name.startswith("output")
        allowed = (OUTPUT_TOLERANCE if is_output else GRADIENT_TOLERANCE)[dtype]
        allowed += 2 * (noise or {}).get(name, 0.0)
        if not error <= allowed:
            raise MismatchError(
                f"{who} is wrong, nothing is reported: its {name} is off by "
                f"{error:.1e} of the largest value ({allowed:.1e} is allowed "
                f"in {str(dtype).removeprefix('torch.')})"
            )
        worst[is_output] = max(worst.get(is_output, 0.0), error)
    return worst[True], worst.get(False)


def check_backends(
    contestants: Sequence[Contestant],
    reference: Build,
    shape: Shape,
    mode: str,
    precision: Precision,
    settings: str,
) -> tuple[list[Check], dict[str, str]]:
    """Compare backends with the reference: in float32, and in the dtype measured.

    Args:
        contestants: Focal Transformers; others are passed over.
        reference: Makes the reference, with the weights that the contestants have.
        shape: Of the images measured; see :func:`checked_shape`.
        mode: 'inference' or 'training'.
        precision: What is measured.
        settings: The models' focal settings.

    Returns:
        What was found, and by name the reasons of those that could not run.

    Raises:
        MismatchError: If one computes something else.
    """
    shape = checked_shape(shape, mode)
    images = make_images(shape, 1)
    exact = Precision(precision.device)

    def run(build: Build, how: Precision) -> dict[str, Tensor]:
        model = how.prepare(build(shape), mode)
        return outputs_and_gradients(model, how.prepare(images, mode), mode, how)

    expected = run(reference, exact)
    noise: dict[str, float] = {}
    if precision != exact:
        noise = errors(REFERENCE, run(reference, precision), expected)
    checks, failed = [], {}
    for contestant in contestants:
        if contestant.family != "focal":
            continue
        for how in dict.fromkeys((exact, precision)):
            try:
                got = run(contestant.build, how)
            except Exception as error:
                # Whatever kernels and compilers raise.
                failed[contestant.name] = describe(error)
                break
            found = compare(
                contestant.name,
                got,
                expected,
                how.dtype,
                {} if how == exact else noise,
            )
            dtype = str(how.dtype).removeprefix("torch.")
            checks.append(
                Check(contestant.backend, settings, mode, dtype, *shape, *found)
            )
    return checks, failed


def check_compiled(name: str, runner: Runner) -> None:
    """Compare a compiled model with the same one not compiled.

    Raises:
        MismatchError: If it computes something else.
    """
    args = (runner.images, runner.mode, runner.precision)
    expected = outputs_and_gradients(runner.model, *args)
    # It has the parameters of the plain one, under other names.
    got = {
        key.replace("_orig_mod.", ""): tensor
        for key, tensor in outputs_and_gradients(runner.called, *args).items()
    }
    compare(f"{name}, compiled,", got, expected, runner.precision.dtype)


def describe(error: Exception) -> str:
    """An error of a library, in one line that is not too long."""
    text = " ".join(str(error).split())
    if len(text) > 200:
        text = text[:200] + "…"
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
