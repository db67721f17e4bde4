"""Convert a released Focal Transformer checkpoint to OpenMMLab's layout.

    python tools/convert_checkpoint.py focal-tiny-is224-ws7.pth focal_tiny_in1k.pth

Both versions of the released code are known; the second is Focal-fast. The result loads
into an mmpretrain ImageClassifier, and into the backbone of any detector or segmentor
with ``init_cfg=dict(type='Pretrained', checkpoint=OUT)``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from focal_mm.checkpoint import CheckpointError, convert_released, read_checkpoint
from focal_mm.checkpoint.read import state_dict_of


def convert(source: Path, target: Path) -> str:
    """Convert a file; return what was done.

    Raises:
        CheckpointError: If ``source`` cannot be read or is no released checkpoint, or
            ``target`` cannot be written.
    """
    if target.exists():
        raise CheckpointError(f"{target} exists: remove it or choose another name")
    if not target.parent.is_dir():
        raise CheckpointError(f"{target.parent} is not a folder: make it first")
    state = state_dict_of(read_checkpoint(source), str(source))
    try:
        converted = convert_released(state)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    partial = target.with_name(target.name + ".partial")
    try:
        torch.save({"state_dict": converted, "meta": {}}, partial)
        os.replace(partial, target)
    except OSError as error:
        raise CheckpointError(f"{target} cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    dropped = len(state) - len(converted)
    return (
        f"{target}: {len(converted)} tensors, {dropped} derived buffers of {source} "
        "left out"
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="The input is read without executing anything in it.",
    )
    parser.add_argument("input", type=Path, metavar="IN", help="released .pth file")
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write")
    args = parser.parse_args(argv)
    try:
        print(convert(args.input, args.output))
    except CheckpointError as error:
        print(f"convert_checkpoint: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
