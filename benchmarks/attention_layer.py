"""Speed of one layer's attention against the ceilings of the machine."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

try:
    from rich.table import Table

    from benchmarks import options, report
    from benchmarks.attention import Layer, measure_layer, row
    from benchmarks.models import (
        SETTINGS,
        focal_contestants,
        parse_arch_option,
        settings_for,
    )
    from focal_mm.engine import UserError, cli
except ModuleNotFoundError as error:
    sys.exit(f"benchmark_ops.py: {error} (this is {sys.executable})")

DESCRIPTION = """\
Speed of one layer's attention (without projections) with each backend: forward, and
forward and backward, against the machine's own ceilings.
"""
EPILOG = """\
FLOP/s count two for each multiply-add of the products over distinct keys (two products
forward, four backward; what a kernel computes twice does not count). Bytes/s count what
must be moved at least: query, key, value, pooled ones, biases and output once, backward
also the gradients. The ceilings are a large product of matrices in the dtype and a
large copy, timed in the same rounds; the roofline is the time that the slower of the
two would need. Every backend's output and gradients are compared with 'naive' first.
"""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.Parser(
        prog="benchmark_ops.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--stages",
        nargs="+",
        type=options.positive,
        metavar="N",
        help="stages, from 1 (default: all)",
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=options.size,
        default=[options.size("224")],
        metavar="SIZE",
        help="sides of square images, or HEIGHTxWIDTH (default: 224)",
    )
    parser.add_argument(
        "--batch",
        nargs="+",
        type=options.positive,
        metavar="N",
        help="images, one number for all sizes or one for each (default: as many "
        "pixels as 8 images of 224, with CUDA 64; at least one image)",
    )
    parser.add_argument(
        "--arch",
        default="tiny",
        help="size of the model: a preset, or EMBED_DIMS:DEPTHS:NUM_HEADS "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--settings",
        choices=tuple(SETTINGS),
        help="focal regions (default: up to 224 imagenet, above detection)",
    )
    options.add_common(parser, default_rounds=10)
    return parser.parse_args(argv)


def run(argv: Sequence[str]) -> int:
    """Measure, print, write.

    Raises:
        UserError: If something is wrong with the arguments, or a backend differs.
    """
    args = parse_args(argv)
    precision = options.prepare(args)
    arch = parse_arch_option(args.arch)
    stages = args.stages or range(1, len(arch.depths) + 1)
    if max(stages) > len(arch.depths):
        raise UserError(
            f"--stages: {max(stages)} of a model with {len(arch.depths)} stages"
        )
    contestants, _ = focal_contestants(arch, args.settings, args.backends)
    backends = [contestant.backend for contestant in contestants]
    batches = options.batches(args.batch, args.sizes, precision.device)
    layers = [
        Layer(arch, stage - 1, shape, batch, args.settings or settings_for(shape))
        for shape, batch in zip(args.sizes, batches, strict=True)
        for stage in stages
    ]
    command = shlex.join(["python", "benchmarks/attention_layer.py", *argv])
    head = report.header(command, precision.device)
    rows, notes = [], {}
    for number, layer in enumerate(layers, start=1):
        name = describe(layer)
        print(f"[{number}/{len(layers)}] {name}", file=sys.stderr)
        times, ceilings, failed = measure_layer(
            layer, backends, precision, args.rounds, args.repeats
        )
        rows += [
            row(layer, *key, found, ceilings, precision.dtype)
            for key, found in times.items()
        ]
        notes |= {f"{who}, {name}": reason for who, reason in failed.items()}
    console = report.report_console()
    console.print(table(rows))
    for name, reason in notes.items():
        print(f"{name}, is not measured: {reason}")
    if args.json:
        content = {"schema": "focal_mm/benchmark_ops/1", **head, "dtype": args.dtype}
        report.write_json(args.json, {**content, "failed": notes, "results": rows})
        print(f"figures of every round: {args.json}")
    return 0 if rows else 1


def describe(layer: Layer) -> str:
    """The layer, for people."""
    height, width = layer.shape
    return (
        f"stage {layer.stage + 1} of {height}x{width}, batch {layer.batch}, "
        f"{layer.settings} settings"
    )


def table(rows: Sequence[dict[str, Any]]) -> "Table":
    """A line for each backend and pass of each layer."""
    shown = Table(
        *("stage", "size", "batch", "backend", "pass", "best\nms", "median\nms"),
        *("\nGFLOP/s", "of\nmatmul", "\nGB/s", "of\ncopy", "of\nroofline"),
    )
    shown.columns[4].no_wrap = True
    for column in shown.columns[5:]:
        column.justify = "right"
    previous = None
    for found in rows:
        layer = (found["stage"], found["height"], found["width"], found["batch"])
        if previous not in (None, layer):
            shown.add_section()
        previous = layer
        shown.add_row(
            *(str(found["stage"]), f"{found['height']}x{found['width']}"),
            *(str(found["batch"]), found["backend"], found["pass"]),
            report.milliseconds(found["best_seconds"]),
            report.milliseconds(found["median_seconds"]),
            f"{found['flops_per_second'] / 1e9:.0f}",
            f"{found['of_matmul']:.0%}",
            f"{found['bytes_per_second'] / 1e9:.1f}",
            f"{found['of_copy']:.0%}",
            f"{found['of_roofline']:.0%}",
        )
    return shown


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    return options.guarded("benchmark_ops.py", lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())
