"""Speed and memory of Focal Transformers against Swin's and each other."""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

try:
    from benchmarks import options, report
    from benchmarks.checking import MismatchError
    from benchmarks.models import (
        SETTINGS,
        SWINS,
        Absent,
        focal_contestants,
        parse_arch_option,
        swin_contestants,
    )
    from benchmarks.progress import CostProgress
    from benchmarks.runner import Findings, Plan, measure
    from benchmarks.steps import MODES
    from focal_mm.engine import UserError, cli
except ModuleNotFoundError as error:
    sys.exit(f"benchmark.py: {error} (this is {sys.executable})")

DESCRIPTION = """\
Speed and memory of Focal Transformers against Swin Transformers of the same size, and
of the attention backends against each other, in alternating rounds of one process.
"""
EPILOG = """\
Before anything is measured, every backend is compared with 'naive': same weights,
outputs and in training all gradients, in float32 and in --dtype. Where one differs,
nothing is reported and the exit code is 1.

Compared are backbones that give a normed map of each stage, with stochastic depth off.
Inference in half precision has weights of the dtype, training mixed precision; a step
of training is forward, backward and AdamW. Memory is the most that parameters,
optimizer and two steps hold in PyTorch's allocator (of a process it is more). Squares
use the focal regions of the paper's ImageNet models, as does its authors' table of
throughput, other sizes those of its detection models; --settings takes one for all.

examples:
  python benchmarks/backbones.py --threads 2 --json cpu.json
  python benchmarks/backbones.py --dtype bfloat16 --compile --json gpu.json
  python benchmarks/backbones.py --sizes 224 448 672 896 1344 2048 --batch 1 \\
      --settings detection --backends auto --json scaling.json
  python benchmarks/plot_scaling.py scaling.json
"""


def parse_args(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.Parser(
        prog="benchmark.py",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=options.size,
        default=[options.size(text) for text in options.SIZES],
        metavar="SIZE",
        help="sides of square images, or HEIGHTxWIDTH "
        f"(default: {' '.join(options.SIZES)})",
    )
    parser.add_argument(
        "--batch",
        nargs="+",
        type=options.positive,
        metavar="N",
        help="images, one number for all sizes or one for each (default: as many "
        "pixels as 8 images of 224, with CUDA 64; at least one image)",
    )
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument(
        "--compile", action="store_true", help="measure torch.compile besides eager"
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=("focal", *SWINS),
        help="ours, and whose Swin (default: all that are installed)",
    )
    parser.add_argument(
        "--arch",
        default="tiny",
        help="size of all models: a preset, or EMBED_DIMS:DEPTHS:NUM_HEADS such as "
        "96:2,2,6,2:3,6,12,24 (default: %(default)s)",
    )
    parser.add_argument(
        "--settings",
        choices=tuple(SETTINGS),
        help="focal regions of ours (default: by size)",
    )
    options.add_common(parser, default_rounds=7)
    return parser.parse_args(argv)


def make_plan(args: argparse.Namespace) -> tuple[Plan, list[Absent]]:
    """What is to be measured, and what cannot be.

    Raises:
        UserError: If the arguments do not fit together or this machine.
    """
    precision = options.prepare(args)
    arch = parse_arch_option(args.arch)
    shapes = list(dict.fromkeys(args.sizes))
    batches = options.batches(args.batch, shapes, precision.device)
    libraries = None
    if args.models is not None:
        libraries = [name for name in args.models if name != "focal"]
    contestants, absent = swin_contestants(arch, libraries)
    if args.models is None or "focal" in args.models:
        ours, others = focal_contestants(arch, args.settings, args.backends)
        contestants, absent = contestants + ours, absent + others
    elif args.backends:
        raise UserError("--backends needs 'focal' among --models")
    plan = Plan(
        arch=arch,
        contestants=contestants,
        shapes=shapes,
        batches=batches,
        modes=list(dict.fromkeys(args.modes)),
        forms=(False, True) if args.compile else (False,),
        precision=precision,
        settings=args.settings,
        rounds=args.rounds,
        repeats=args.repeats,
    )
    return plan, absent


def run(argv: Sequence[str]) -> int:
    """Measure, print, write.

    Raises:
        UserError: If something is wrong with the arguments, or a backend differs.
    """
    args = parse_args(argv)
    command = shlex.join(["python", "benchmarks/backbones.py", *argv])
    # The libraries print when they are imported.
    with contextlib.redirect_stdout(sys.stderr):
        plan, absent = make_plan(args)
    head = report.header(command, plan.precision.device)

    def write(findings: Findings) -> None:
        if args.json:
            content = report.document(plan, findings, absent, head)
            report.write_json(args.json, content)

    findings, stopped = Findings(), False
    try:
        with contextlib.redirect_stdout(sys.stderr), CostProgress(plan.cost) as bar:
            measure(plan, bar, write, findings)
    except MismatchError:
        if args.json and findings.results:
            args.json.unlink()
        raise
    except KeyboardInterrupt:
        stopped = True
    if findings.results:
        report.print_report(report.report_console(), plan, findings, absent, head)
    if args.json and findings.results:
        print(f"figures of every round: {args.json}")
    if stopped:
        raise KeyboardInterrupt
    return 0 if any(result.times for result in findings.results) else 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    return options.guarded("benchmark.py", lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())
