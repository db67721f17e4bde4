"""Convert weights of other projects to OpenMMLab's layout.

    python tools/convert_checkpoint.py focal-tiny-is224-ws7.pth focal_tiny_in1k.pth

The layouts of ``focal_mm.checkpoint.layouts`` are recognised by content. A classifier's
weights load into an mmpretrain ImageClassifier then, and into the backbone of any
detector or segmentor with ``init_cfg=dict(type='Pretrained', checkpoint=OUT)``.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from focal_mm.checkpoint import CheckpointError, read_checkpoint
from focal_mm.checkpoint.layouts import LAYOUTS, to_openmmlab
from focal_mm.checkpoint.read import state_dict_of
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.files import replacing
from focal_mm.engine.fit_images import fit_to_images
from focal_mm.engine.options import Parser


def convert(source: Path, target: Path, images: Path | None) -> None:
    """Convert a file and say what was done.

    Args:
        source: File with the weights.
        target: File to write.
        images: Folder of images to which a Swin's weights are fitted.

    Raises:
        UserError: If ``target`` is there already or cannot be written, or there are no
            images.
        focal_mm.checkpoint.CheckpointError: If ``source`` cannot be read or is in no
            known layout.
    """
    if target.exists():
        raise UserError(f"{target} exists: remove it or choose another name")
    state = state_dict_of(read_checkpoint(source), str(source))
    converted = fit_to_images(state, images) if images else to_openmmlab(state)
    if converted is None:
        known = ", ".join(layout.title for layout in LAYOUTS)
        raise CheckpointError(
            f"{source} is in none of the known layouts ({known}); its first name is "
            f"{next(iter(state))!r}"
        )
    with replacing(target) as unfinished:
        torch.save({"state_dict": converted, "meta": {}}, unfinished)
    print(f"{target}: {len(converted)} tensors")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("input", type=Path, metavar="IN", help="file with the weights")
    parser.add_argument("output", type=Path, metavar="OUT", help="file to write")
    parser.add_argument(
        "--fit-images",
        type=Path,
        metavar="FOLDER",
        help="of a Swin: fit the norms of the downsampling to what it makes of some "
        "images, and show how near its features are",
    )
    args = parser.parse_args(argv)
    action = partial(convert, args.input, args.output, args.fit_images)
    return run_guarded(parser.prog, action)


if __name__ == "__main__":
    sys.exit(main())
