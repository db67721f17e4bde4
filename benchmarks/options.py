"""Arguments that the command lines of measurements share."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.models import Shape, parse_size
from benchmarks.steps import DTYPES, Precision
from focal_mm.engine.errors import UserError

SIZES = ("224", "448", "896", "800x1333")
# Images that make a batch of 224x224: as many pixels are taken of other sizes.
_BATCH_AT_224 = {"cpu": 8, "cuda": 64}


def size(text: str) -> Shape:
    """A size as argparse reads it."""
    try:
        return parse_size(text)
    except ValueError as error:
        message = f"{text!r} is not a size such as 448 or 800x1333 (height x width)"
        raise argparse.ArgumentTypeError(message) from error


def positive(text: str) -> int:
    """A whole number from 1 up as argparse reads it."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def add_common(parser: argparse.ArgumentParser, default_rounds: int) -> None:
    """Where, how precisely and how often to measure, and what to write."""
    parser.add_argument("--device", metavar="DEVICE", help="default: cuda, else cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="float32")
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: torch's)"
    )
    parser.add_argument(
        "--rounds",
        type=positive,
        default=default_rounds,
        metavar="N",
        help="turns of each contestant (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=positive,
        metavar="N",
        help="steps in a turn, timed together (default: 1, with CUDA 10)",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        metavar="NAME",
        help="attention backends, also 'auto' (default: all that can run here)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write JSON, too")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace FILE if it is there"
    )


def prepare(args: argparse.Namespace) -> Precision:
    """Check what :func:`add_common` has read, and set threads and repeats.

    Raises:
        UserError: If the device is not there, or the output must not be written.
    """
    if args.json:
        if args.json.exists() and not args.overwrite:
            raise UserError(f"{args.json} is there: another name, or --overwrite")
        if not args.json.parent.is_dir():
            raise UserError(f"--json: there is no folder {args.json.parent}")
    device = find_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.repeats is None:
        args.repeats = 10 if device.type == "cuda" else 1
    return Precision(device, DTYPES[args.dtype])


def find_device(name: str | None) -> torch.device:
    """The named device, by default a GPU where there is one.

    Raises:
        UserError: If it is not there.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: unknown, use cpu, cuda or cuda:N") from None
    if device.type not in _BATCH_AT_224:
        raise UserError(f"--device {name}: only cpu and cuda are measured")
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise UserError(f"--device {name}: PyTorch finds {count} CUDA devices")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def batches(
    given: Sequence[int] | None, shapes: Sequence[Shape], device: torch.device
) -> list[int]:
    """Images for each size.

    Args:
        given: One number for all sizes or one for each; None for the default: as many
            pixels as 8 images of 224x224, on a GPU 64.
        shapes: The sizes.
        device: Where they are used.

    Raises:
        UserError: If the numbers do not fit the sizes.
    """
    if given is None:
        pixels = _BATCH_AT_224[device.type] * 224**2
        return [max(1, pixels // math.prod(shape)) for shape in shapes]
    if len(given) == 1:
        return list(given) * len(shapes)
    if len(given) != len(shapes):
        raise UserError(f"--batch: {len(given)} numbers for {len(shapes)} sizes")
    return list(given)


def guarded(program: str, action: Callable[[], int]) -> int:
    """Run; what the user can put right is one line on standard error."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return action()
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{program}: stopped by the user", file=sys.stderr)
        return 130
