"""Convert a released Focal Transformer checkpoint to OpenMMLab's layout.

    python tools/convert_checkpoint.py focal-tiny-is224-ws7.pth focal_tiny_in1k.pth

Both versions of the released code are known; the second is Focal-fast. The result loads
into an mmpretrain ImageClassifier, and into the backbone of any detector or segmentor
with ``init_cfg=dict(type='Pretrained', checkpoint=OUT)``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from focal_mm.checkpoint import convert_released, read_checkpoint
from focal_mm.checkpoint.read import state_dict_of
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.files import replacing
from focal_mm.engine.options import Parser


def convert(source: Path, target: Path) -> None:
    """Convert a file and say what was done.

    Raises:
        UserError: If ``target`` is there already or cannot be written.
        focal_mm.checkpoint.CheckpointError: If ``source`` cannot be read or is no
            released checkpoint.
    """
    if target.exists():
        raise UserError(f"{target} exists: remove it or choose another name")
    state = state_dict_of(read_checkpoint(source), str(source))
    converted = convert_released(state)
    with replacing(target) as partial:
        torch.save({"state_dict": converted, "meta": {}}, partial)
    dropped = len(state) - len(converted)
    print(f"{target}: {len(converted)} tensors, without {dropped} derived buffers")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("input", type=Path, metavar="IN", help="released .pth file")
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write")
    args = parser.parse_args(argv)
    return run_guarded(parser.prog, lambda: convert(args.input, args.output))


if __name__ == "__main__":
    sys.exit(main())
