"""Cut a small subset out of the full conformance data.

    python tests/conformance/make_subset.py FULL_DATA_FOLDER

Writes ``subset.npz`` beside this script. Each case is a piece of a network: the
output of one stage goes in, the weights and the output of what follows come with it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

GRADIENT_STRIDE = 16
"""Of the flattened gradients every 16th value is kept."""

PIECES = {
    "v1_levels3": ("layers.0.downsample.", "layers.1.blocks."),
    "v1_det_focal": ("layers.0.downsample.", "layers.1.blocks."),
    "v2_fast_224": ("layers.0.downsample.", "layers.1.blocks."),
    "v1_224": ("layers.2.downsample.", "layers.3.", "norm.", "head."),
}
"""Case to the released names of its weights: one stage, with the head or without."""


def cut(case: str, data: np.lib.npyio.NpzFile) -> dict[str, np.ndarray]:
    """The arrays of one case's piece, under ``CASE/...``."""
    prefixes = PIECES[case]
    piece = {name: data[name] for name in data.files if name[3:].startswith(prefixes)}
    stage = int(prefixes[0].split(".")[1])
    names = [f"io/stage{stage}", f"io/stage{stage + 1}"]
    if "head." in prefixes:
        names += ["io/logits", "io/grad_weight"]
        piece |= {
            name: data[name].ravel()[::GRADIENT_STRIDE]
            for name in data.files
            if name.startswith("grad/layers.3.")
        }
    piece |= {name: data[name] for name in names}
    return {f"{case}/{name}": array for name, array in piece.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with index.json and *.npz")
    folder = parser.parse_args().folder
    index = json.loads((folder / "index.json").read_text())
    arrays = {}
    for case in PIECES:
        with np.load(folder / f"{case}.npz") as data:
            arrays |= cut(case, data)
    here = Path(__file__).parent
    np.savez_compressed(here / "subset.npz", **arrays)
    (here / "subset.json").write_text(
        json.dumps(
            {
                "gradient_stride": GRADIENT_STRIDE,
                "cases": {case: index[case] for case in PIECES},
            },
            indent=1,
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
