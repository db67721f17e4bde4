"""Compute how much memory a GPU needs to train a detector.

python tools/estimate_memory.py configs/det/mask_rcnn_focal_tiny_3x.py
python tools/estimate_memory.py CONFIG --amp --cfg-options model.backbone.with_cp=True

Nothing is measured and no GPU is needed: focal_mm/analysis/memory.py says what is added
up, and what is not.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

try:
    from focal_mm.analysis.memory import TrainingMemory, estimate_training_memory
    from focal_mm.engine import UserError, cli
except ModuleNotFoundError as error:
    sys.exit(f"estimate_memory.py: {error} (this is {sys.executable})")

GIB = 2**30


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = cli.Parser(
        prog="estimate_memory.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config file")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="images per GPU (default: the config's)",
    )
    parser.add_argument(
        "--shape",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="largest training image (default: the training pipeline's)",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=cli.Options,
        metavar="KEY=VALUE",
        help="change settings of the config",
    )
    return parser.parse_args(argv)


def describe(name: str, memory: TrainingMemory) -> str:
    """One line for people."""
    return (
        f"{name}: {memory.total / GIB:.1f} GiB computed for {memory.images} images of "
        f"{memory.height}x{memory.width} in "
        f"{'mixed precision' if memory.amp else 'float32'} "
        f"({memory.state / GIB:.1f} parameters, optimizer and exchange, "
        f"{memory.passes / GIB:.1f} forward and backward pass)"
    )


def estimate(path: str, args: argparse.Namespace) -> TrainingMemory:
    """Compute for one config.

    Raises:
        UserError: If it cannot be read, built, or run on an image.
    """
    options = dict(launcher="none", work_dir=None, local_rank=0)
    cfg = cli.load_config(
        argparse.Namespace(config=path, cfg_options=args.cfg_options, **options)
    )
    try:
        return estimate_training_memory(cfg, args.shape, args.batch_size, args.amp)
    except Exception as error:
        # Whatever the libraries raise, it is the config that does not do.
        text = " ".join(str(error).split())
        raise UserError(f"{path}: {type(error).__name__}: {text}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    for path in args.configs:
        try:
            print(describe(Path(path).stem, estimate(path, args)), flush=True)
        except UserError as error:
            print(f"estimate_memory.py: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
