"""The conditions that are checked before a set-up makes anything."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from .plan import (
    Flavour,
    SetupError,
    Site,
    cached_wheel,
    cuda_major,
    wheel_folder,
)

VENV_GB, DOWNLOAD_GB = 6, 4


def check_preconditions(site: Site, flavour: Flavour, environ: dict[str, str]) -> None:
    """Raise SetupError for the first thing that would make the set-up fail."""
    for folder in (site.root, existing_parent(site.cache)):
        if not os.access(folder, os.W_OK):
            raise SetupError(f"{folder} cannot be written to")
    missing = [m for m in ("venv", "ensurepip") if not importlib.util.find_spec(m)]
    if missing:
        raise SetupError(
            f"{sys.executable} has no module {' and '.join(missing)}: on Debian or "
            "Ubuntu install python{}.{}-venv, or choose another Python with "
            "`make setup PYTHON=...`".format(*sys.version_info)
        )
    cached = cached_wheel(wheel_folder(site, flavour)) is not None
    if not cached:
        check_compilers(flavour, environ, site.pins())
    check_disk(site, downloads_kept=cached)


def check_compilers(
    flavour: Flavour, environ: dict[str, str], pins: dict[str, str]
) -> None:
    """Mmcv has no binary wheels: its operators are compiled here, the first time."""
    compiler = environ.get("CXX", "c++")
    if not shutil.which(compiler):
        raise SetupError(
            f"no C++ compiler ({compiler}) on the PATH, and mmcv must be compiled: "
            "install one (Debian, Ubuntu: build-essential; Fedora: gcc-c++)"
        )
    header = Path(sysconfig.get_path("include"), "Python.h")
    if not header.is_file():
        raise SetupError(
            f"no {header}, and mmcv must be compiled: install the headers of this "
            "Python (Debian, Ubuntu: python{}.{}-dev)".format(*sys.version_info)
        )
    if flavour.name != "cpu":
        check_nvcc(environ, cuda_major(pins))


def check_nvcc(environ: dict[str, str], major: str) -> None:
    """The same places as torch's extension builder looks at, in its order."""
    home = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    on_path = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
    nvcc = os.path.join(home, "bin", "nvcc") if home else on_path
    remedy = (
        f"install the CUDA {major} toolkit (or point CUDA_HOME to it), or set "
        "FOCAL_MM_CPU_ONLY=1 to build mmcv's CPU operators only"
    )
    if not os.access(nvcc, os.X_OK):
        raise SetupError(f"no nvcc for mmcv's CUDA operators: {remedy}")
    answer = subprocess.run(
        [nvcc, "--version"], capture_output=True, text=True, check=False
    )
    release = re.search(r"release (\d+)\.\d+", answer.stdout)
    if not release or release[1] != major:
        found = f"is release {release[1]}" if release else "names no release"
        raise SetupError(f"{nvcc} {found}, torch is built for CUDA {major}: {remedy}")


def check_disk(site: Site, downloads_kept: bool) -> None:
    """Free space at the clone, and at the caches unless they are filled already."""
    needs = [(site.root, VENV_GB + DOWNLOAD_GB)]
    if not downloads_kept:
        needs.append((existing_parent(site.cache), DOWNLOAD_GB))
    disks: dict[int, list[tuple[Path, int]]] = {}
    for folder, need in needs:
        disks.setdefault(folder.stat().st_dev, []).append((folder, need))
    for claims in disks.values():
        need = sum(gigabytes for _, gigabytes in claims)
        free = shutil.disk_usage(claims[0][0]).free / 1e9
        if free < need:
            where = " and ".join(str(folder) for folder, _ in claims)
            raise SetupError(
                f"not enough disk: {where} need {need} GB free, there are {free:.1f} GB"
            )


def existing_parent(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
