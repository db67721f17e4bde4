"""Show what this environment can run: versions, devices, operators, attention.

``python tools/check_env.py``; the exit code is 1 where something needed is broken.
What is checked is imported and run, as a library may be broken deep within.
"""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from importlib import metadata

try:
    import numpy as np
    import torch
    from mmengine.utils.dl_utils import collect_env
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    import focal_mm
    from focal_mm.engine.config import describe
    from focal_mm.ops import backend_support
except Exception as error:
    sys.exit(f"ERROR: torch, mmengine and focal_mm are needed: {error!r}")

# What the tools import of the OpenMMLab libraries, and the distributions that bring it:
# first that of the maintained family and then that of the upstream one.
FAMILIES = {
    "mmengine.runner": ("onedl-mmengine", "mmengine"),
    "mmcv.ops": ("onedl-mmcv", "mmcv"),
    "mmdet.apis": ("onedl-mmdetection", "mmdet"),
    "mmseg.apis": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain.apis": ("onedl-mmpretrain", "mmpretrain"),
}
WORKS, ABSENT = "works", "not installed"


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that are installed, by name."""
    found = {}
    for name in distributions:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def attempt(
    what: str, where: str, action: Callable[[str], object], arg: str
) -> tuple[str, str, str]:
    """A row for the table: libraries break in all ways, so any exception is one."""
    try:
        action(arg)
    except Exception as error:
        return what, where, describe(error)
    return what, where, WORKS


def imports() -> Iterator[tuple[str, str, str]]:
    """Each library that is installed can be imported, and they are of one family."""
    for module, distributions in FAMILIES.items():
        found = [" ".join(item) for item in installed(distributions).items()]
        if found:
            yield attempt(module, ", ".join(found), importlib.import_module, module)
        else:
            yield module, "", ABSENT
    sides = [installed(side) for side in zip(*FAMILIES.values(), strict=True)]
    if all(sides):
        names = ", ".join(name for side in sides for name in side)
        result = "two families overwrite each other: make an environment for one"
        yield "OpenMMLab", names, result


def run_mmcv(device: str) -> None:
    """One of mmcv's operators, compiled for this torch and device, is right.

    The boxes come from NumPy, whose version may not fit PyTorch's or OpenCV's.
    """
    from mmcv.ops import nms

    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3.9]], np.float32)
    boxes = torch.from_numpy(boxes).to(device)
    kept = nms(boxes, boxes.new_tensor([0.9, 0.8]), iou_threshold=0.5)[1].tolist()
    assert kept == [0], f"wrong result, kept boxes {kept} instead of [0]"


def run_backbone(device: str) -> None:
    """A small backbone's forward and backward pass run."""
    arch = dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    backbone = focal_mm.FocalTransformer(arch=arch).to(device)
    outputs = backbone(torch.ones(1, 3, 64, 64, device=device))
    sum(output.sum() for output in outputs).backward()


def runs() -> Iterator[tuple[str, str, str]]:
    """What everything needs runs on each kind of device."""
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        if installed(FAMILIES["mmcv.ops"]):
            what = "mmcv's operators, compiled for this torch and device"
            yield attempt(what, device, run_mmcv, device)
        yield attempt("FocalTransformer", device, run_backbone, device)


def show(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a table."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(escape(str(cell)) for cell in row))
    Console().print(table)


def main() -> int:
    """Print the report; 1 where something needed is broken."""
    warnings.simplefilter("ignore")
    rows = [*imports(), *runs()]
    show(("what", "where", "result"), rows)
    found = dict(collect_env(), focal_mm=f"{focal_mm.__version__}, {focal_mm.__file__}")
    found |= installed(["numpy", "triton"])
    found.pop("PyTorch compiling details", None)
    show(("item", "found"), found.items())
    support = backend_support()
    show(support[0]._fields, support)
    broken = [row for row in rows if row[2] not in (WORKS, ABSENT)]
    for what, where, result in broken:
        print(f"ERROR: {what} ({where}): {result}")
    print("something needed is broken" if broken else "all that is needed works")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
