"""Publish a model: weights without training state, in the Hugging Face Hub's layout.

    python tools/publish_checkpoint.py CONFIG work_dirs/NAME/epoch_36.pth published/NAME
    python tools/publish_checkpoint.py focal_tiny my_training.pth published/NAME

``focal_mm.create_model("local-dir:published/NAME")`` loads it, and after
``--push USER/NAME`` everybody's ``focal_mm.create_model("hf-hub:USER/NAME")``.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from focal_mm.engine.errors import run_guarded
from focal_mm.engine.options import Parser, add_cfg_options
from focal_mm.engine.publish import hub_api, publish, push


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        prog="publish_checkpoint.py",
        description="Write a model's weights, without optimizer and other training "
        "state, with config and card into a folder in the Hugging Face Hub's layout.",
    )
    parser.add_argument(
        "model", metavar="MODEL", help="config file, or a name as focal_tiny"
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="what training left")
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder to make")
    parser.add_argument(
        "--metrics",
        type=Path,
        metavar="JSON",
        help="results for the card: names and numbers, as tools/test.py writes them "
        "into the work dir",
    )
    parser.add_argument(
        "--backbone", action="store_true", help="leave necks and heads out"
    )
    parser.add_argument(
        "--push", metavar="USER/NAME", help="upload the folder to the Hub, too"
    )
    parser.add_argument(
        "--private", action="store_true", help="with --push: hide a new repository"
    )
    add_cfg_options(parser)
    return parser.parse_args(argv)


def run(args: argparse.Namespace) -> None:
    # Known to be there before minutes of work.
    api = hub_api() if args.push else None
    publish(
        args.model,
        args.checkpoint,
        args.folder,
        options=args.cfg_options,
        metrics=args.metrics,
        backbone_only=args.backbone,
        repository=args.push,
    )
    if api is not None:
        push(api, args.folder, args.push, args.private)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    args = parse_args(argv)
    return run_guarded("publish_checkpoint.py", lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
