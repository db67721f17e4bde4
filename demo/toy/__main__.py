"""Make a small seeded data set: ``python -m demo.toy FORMAT FOLDER``."""

import argparse
import sys
from collections.abc import Sequence

from demo.toy.formats import AdeSpec, CocoSpec, ImageFolderSpec
from focal_mm.engine.errors import run_guarded

FORMATS = {"coco": CocoSpec, "ade": AdeSpec, "imagefolder": ImageFolderSpec}


def make(argv: Sequence[str] | None) -> None:
    """Write a data set and say what was done."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.toy", argument_default=argparse.SUPPRESS
    )
    parser.add_argument(
        "format",
        choices=FORMATS,
        help="detection and instance segmentation as COCO, semantic segmentation as "
        "ADE20K, or classification with a folder for each class",
    )
    parser.add_argument("folder", help="folder to make")
    for option, meaning in (
        ("--num-train", "number of training images"),
        ("--num-val", "number of validation images"),
        ("--size", "side of the square images in pixels"),
        ("--seed", "seed of all images (default: 0)"),
    ):
        parser.add_argument(option, type=int, help=meaning)
    options = vars(parser.parse_args(argv))
    make_spec, folder = FORMATS[options.pop("format")], options.pop("folder")
    spec = make_spec(**options)
    done = "wrote" if spec.write(folder) else "kept what was there:"
    print(f"{done} {folder}, {spec}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_guarded("demo.toy", lambda: make(argv))


if __name__ == "__main__":
    sys.exit(main())
