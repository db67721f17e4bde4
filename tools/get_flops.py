"""Parameters and FLOPs of configs: ``python tools/get_flops.py CONFIG...``."""

import argparse
import contextlib
import json
import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from focal_mm.engine.complexity import Complexity, measure
from focal_mm.engine.config import describe, load_config
from focal_mm.engine.errors import run_guarded
from focal_mm.engine.options import Parser, add_cfg_options

PROGRAM = "get_flops.py"
EPILOG = """\
FLOPs are multiply-adds, as in the tables of the field: convolutions, linear layers,
and the products of attention; of a two-stage detector with 1000 proposals and 100
detections. docs/complexity.md has the details and compares with the paper.

--json prints a list with an object for each config: config (its path), height, width,
params, flops, product_flops (those of attention and other products of two
activations), all as whole numbers, and parts (params and flops of each module).
"""


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog=PROGRAM,
        description="Parameters and FLOPs of the models of configs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config file")
    parser.add_argument(
        "--shape",
        nargs=2,
        type=int,
        metavar=("H", "W"),
        help="size of the image; by default 800 1280 for detection, the training "
        "crop's height and four times that for segmentation, the training crop for "
        "classification",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    add_cfg_options(parser)
    return parser.parse_args(argv)


def show(rows: dict[str, Complexity]) -> None:
    """Print a table with a line for each config."""
    columns = ("config", "height × width", "params (M)", "FLOPs (G)")
    table = Table(*columns, box=None, pad_edge=False)
    for config, found in rows.items():
        table.add_row(
            os.path.relpath(config),
            f"{found.height} × {found.width}",
            f"{found.params / 1e6:.2f}",
            f"{found.flops / 1e9:.1f}",
        )
    # Not folded in a log.
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print("FLOPs are multiply-adds; --help says what is counted.")


def run(args: argparse.Namespace) -> int:
    rows = {}
    for number, config in enumerate(args.configs, start=1):
        print(f"[{number}/{len(args.configs)}] {config}", file=sys.stderr)
        try:
            # The libraries print when they are imported.
            with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                cfg = load_config(config, args.cfg_options)
                rows[config] = measure(cfg, args.shape)
        except Exception as error:
            # Whatever the libraries raise of the config or the shape, the others count.
            print(f"{PROGRAM}: {config}: {describe(error)}", file=sys.stderr)
    if args.json:
        data = [{"config": name, **asdict(found)} for name, found in rows.items()]
        print(json.dumps(data, indent=2))
    elif rows:
        show(rows)
    return int(len(rows) < len(set(args.configs)))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    return run_guarded(PROGRAM, lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
