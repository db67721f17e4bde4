"""Make a small seeded data set for demonstrations and tests."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

from demo.toy.ade import AdeSpec, write_ade  # noqa: E402
from demo.toy.coco import CocoSpec, write_coco  # noqa: E402
from demo.toy.imagefolder import (  # noqa: E402
    ImageFolderSpec,
    write_imagefolder,
)

FORMATS = (
    (CocoSpec, write_coco, "instance segmentation in COCO's format"),
    (AdeSpec, write_ade, "semantic segmentation in ADE20K's format"),
    (ImageFolderSpec, write_imagefolder, "classification, a folder for each class"),
)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line; each data format is a sub-command."""
    parser = argparse.ArgumentParser(description=__doc__)
    formats = parser.add_subparsers(dest="format", required=True)
    for spec, write, summary in FORMATS:
        command = formats.add_parser(spec.kind, help=summary, description=summary)
        command.set_defaults(spec=spec, write=write)
        command.add_argument("out_dir", type=Path, help="folder to make")
        for option, meaning in (
            ("num_train", "number of training images"),
            ("num_val", "number of validation images"),
            ("size", "side of the square images in pixels"),
            ("seed", "seed of all images"),
        ):
            command.add_argument(
                f"--{option.replace('_', '-')}",
                type=int,
                default=getattr(spec, option),
                help=f"{meaning} (default: %(default)s)",
            )
    return parser.parse_args(argv)


def make(args: argparse.Namespace) -> str:
    """Write the data set and say what was done."""
    spec = args.spec(args.num_train, args.num_val, args.size, args.seed)
    if args.write(args.out_dir, spec, progress=True):
        return f"wrote {args.out_dir}"
    return f"{args.out_dir} already holds this data set: kept"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    try:
        print(make(args))
    except (ValueError, OSError) as error:
        print(f"make_toy_data: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
