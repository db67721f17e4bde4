"""Show what this environment can run: versions, devices, operators, attention.

``python tools/check_env.py``; the exit code is 1 where something needed is broken.
What is checked is imported and run, as a library may be broken deep within.
"""

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib import metadata

# What the tools import, and the distributions that bring it. Of the OpenMMLab
# libraries, first that of the maintained family and then that of the upstream one.
PACKAGES = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "triton": ("triton",),
    "numpy": ("numpy",),
    "cv2": ("opencv-python", "opencv-python-headless"),
}
FAMILIES = {
    "mmengine.runner": ("onedl-mmengine", "mmengine"),
    "mmcv.ops": ("onedl-mmcv", "mmcv"),
    "mmdet.apis": ("onedl-mmdetection", "mmdet"),
    "mmseg.apis": ("onedl-mmsegmentation", "mmsegmentation"),
    "mmpretrain.apis": ("onedl-mmpretrain", "mmpretrain"),
}


def installed(distributions: tuple[str, ...]) -> dict[str, str]:
    """Versions of those distributions that are installed."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


class Checks:
    """What was tried: ``rows`` for a table, and ``problems``, a line each."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, str]] = []
        self.problems: list[str] = []

    def add(
        self, what: str, where: str, action: Callable[[str], object], arg: str
    ) -> None:
        """Try an action; libraries break in all ways, so any exception is a problem."""
        try:
            action(arg)
            result = "works"
        except Exception as error:
            result = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.problems.append(f"{what} ({where}): {result}")
        self.rows.append((what, where, result))


def check_imports(checks: Checks) -> None:
    """Each library that is installed can be imported, and they are of one family."""
    sides = [installed(side) for side in zip(*FAMILIES.values(), strict=True)]
    if all(sides):
        checks.problems.append(
            "two OpenMMLab families in one environment overwrite each other "
            f"({', '.join(sides[0])} and {', '.join(sides[1])}): make a new one with "
            "one of them"
        )
    for module, distributions in {**PACKAGES, **FAMILIES}.items():
        if found := installed(distributions):
            versions = ", ".join(f"{name} {version}" for name, version in found.items())
            checks.add(module, versions, importlib.import_module, module)
        else:
            checks.rows.append((module, "", "not installed"))


def run_opencv(device: str) -> None:
    """Images get through OpenCV and NumPy into PyTorch."""
    import cv2
    import numpy as np
    import torch

    encoded = cv2.imencode(".png", np.ones((4, 4, 3), np.uint8))[1]
    assert torch.from_numpy(cv2.imdecode(encoded, 1)).to(device).sum() == 48


def run_mmcv(device: str) -> None:
    """One of mmcv's operators, compiled for this torch and device, is right."""
    import torch
    from mmcv.ops import nms

    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 3.9]], device=device)
    kept = nms(boxes, boxes.new_tensor([0.9, 0.8]), iou_threshold=0.5)[1].tolist()
    assert kept == [0], f"wrong result, kept boxes {kept} instead of [0]"


def run_backbone(device: str) -> None:
    """A small backbone's forward and backward pass run."""
    import torch

    from focal_mm import FocalTransformer

    arch = dict(embed_dims=16, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8))
    backbone = FocalTransformer(arch=arch).to(device)
    outputs = backbone(torch.ones(1, 3, 64, 64, device=device))
    sum(output.sum() for output in outputs).backward()


def check_runs(checks: Checks) -> None:
    """What everything needs runs on each kind of device."""
    import torch

    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        # From 4.12 on, OpenCV is for numpy 2.
        checks.add("OpenCV, NumPy and PyTorch together", device, run_opencv, device)
        if installed(FAMILIES["mmcv.ops"]):
            what = "mmcv's operators, compiled for this torch and device"
            checks.add(what, device, run_mmcv, device)
        checks.add("FocalTransformer", device, run_backbone, device)


def main() -> int:
    """Print the report; 1 where something needed is broken."""
    try:
        from mmengine.utils.dl_utils import collect_env
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        import focal_mm
        from focal_mm.ops import backend_support
    except Exception as error:
        # The rest cannot even be asked.
        print(
            f"ERROR: focal_mm and mmengine are needed: {type(error).__name__}: {error}"
        )
        return 1

    def show(title: str, columns: tuple[str, ...], rows: list[tuple]) -> None:
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        Console().print(table)

    warnings.simplefilter("ignore")
    checks = Checks()
    check_imports(checks)
    check_runs(checks)
    show("What works", ("what", "where", "result"), checks.rows)
    found = dict(collect_env(), focal_mm=f"{focal_mm.__version__}, {focal_mm.__file__}")
    details = ("PyTorch compiling details", "numpy_random_seed")
    rows = [item for item in found.items() if item[0] not in details]
    show("Devices and tools", ("item", "found"), rows)
    support = backend_support()
    show("Attention backends", support[0]._fields, support)
    for problem in checks.problems:
        print(f"ERROR: {problem}")
    print(
        "something needed is broken" if checks.problems else "all that is needed works"
    )
    return 1 if checks.problems else 0


if __name__ == "__main__":
    sys.exit(main())
