"""Draw cost and memory against image size from a benchmark's JSON."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

try:
    from benchmarks.options import guarded
    from benchmarks.report import read_json
    from benchmarks.scaling import draw, read_series, save
    from benchmarks.steps import MODES
    from focal_mm.engine import UserError, cli
except ModuleNotFoundError as error:
    sys.exit(f"plot_scaling.py: {error} (this is {sys.executable})")

OUT = ROOT / "docs" / "images" / "scaling.png"
EPILOG = """\
A file that can be drawn:

  python benchmarks/backbones.py --sizes 224 448 672 896 1344 2048 --batch 1 \\
      --settings detection --backends auto --json scaling.json
"""


def run(argv: Sequence[str] | None) -> int:
    """Read, draw, write.

    Raises:
        UserError: If the file is not a benchmark's, or does not do for this.
    """
    parser = cli.Parser(
        prog="plot_scaling.py",
        description="Draw time and memory against image size, with a straight line "
        "through the points of each model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("json", type=Path, metavar="JSON", help="of benchmark.py")
    parser.add_argument(
        "--out",
        type=Path,
        default=OUT,
        metavar="PNG",
        help="picture to write or replace (default: docs/images/scaling.png)",
    )
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="whose figures stand for ours (default: auto's, else the fastest's)",
    )
    parser.add_argument(
        "--compiled", action="store_true", help="draw the compiled models"
    )
    args = parser.parse_args(argv)
    if args.out.suffix.lower() != ".png":
        raise UserError(f"--out {args.out}: its name must end in .png")
    if not args.out.resolve().parent.is_dir():
        raise UserError(f"--out: there is no folder {args.out.parent}")
    content = read_json(args.json)
    found = {
        mode: read_series(content, mode, args.compiled, args.backend) for mode in MODES
    }
    found = {mode: series for mode, series in found.items() if series}
    if not found:
        form = "compiled" if args.compiled else "not compiled"
        raise UserError(f"{args.json} has no square sizes of models {form}")
    save(draw(content, found), args.out)
    print(f"drawn: {args.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return guarded("plot_scaling.py", lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
