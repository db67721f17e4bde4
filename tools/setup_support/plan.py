"""What one set-up works on: the clone, the shared cache, mmcv's flavour and wheel."""

import hashlib
import os
import platform
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import NamedTuple

BUILD_TOOLS = ("pip", "setuptools", "wheel", "packaging", "ninja", "psutil")
FRAMEWORK = ("torch", "torchvision")
PROJECT = ("--no-build-isolation", "-e", ".[all,dev]")
HEADLESS = "opencv-python-headless"


class SetupError(Exception):
    """What stops the set-up, in one line for people."""


class Site(NamedTuple):
    """Where one set-up works: the clone and the cache that clones share."""

    root: Path
    cache: Path

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def constraints(self) -> Path:
        return self.root / "requirements" / "constraints.txt"

    @property
    def log(self) -> Path:
        clone = hashlib.sha256(str(self.root).encode()).hexdigest()[:8]
        return self.cache / f"setup-{self.root.name}-{clone}.log"

    def pins(self) -> dict[str, str]:
        """The version of every package that has one pin for all Pythons."""
        text = self.constraints.read_text()
        return dict(re.findall(r"^([\w.-]+)==([^\s;]+)$", text, re.MULTILINE))


def find_site(root: Path, environ: dict[str, str]) -> Site:
    base = environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Site(root.resolve(), Path(base) / "focal_mm")


class Flavour(NamedTuple):
    """Which operators mmcv is built with: a name, why, and what its build reads."""

    name: str
    reason: str
    env: dict[str, str]


def choose_flavour(environ: dict[str, str], pins: dict[str, str]) -> Flavour:
    """CUDA operators where a GPU is seen or they are asked for, else CPU only."""
    # An empty device list keeps mmcv's build from finding a GPU by itself.
    cpu = {"FORCE_CUDA": "0", "CUDA_VISIBLE_DEVICES": ""}
    if environ.get("FOCAL_MM_CPU_ONLY") == "1":
        return Flavour("cpu", "FOCAL_MM_CPU_ONLY=1", cpu)
    seen = gpu_capabilities()
    forced = environ.get("FORCE_CUDA") == "1"
    if not seen and not forced:
        return Flavour("cpu", "nvidia-smi lists no GPU here", cpu)
    archs = environ.get("TORCH_CUDA_ARCH_LIST") or ";".join(seen)
    name = f"cuda{cuda_major(pins)}-{re.sub('[^0-9A-Za-z.+]+', '_', archs) or 'all'}"
    env = {"FORCE_CUDA": "1"}
    if archs:
        env["TORCH_CUDA_ARCH_LIST"] = archs
    return Flavour(name, "FORCE_CUDA=1" if forced else "GPU found", env)


def gpu_capabilities() -> list[str]:
    """Compute capabilities of the GPUs that the driver lists, such as ``9.0``."""
    query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
    try:
        answer = subprocess.run(
            query, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    lines = answer.stdout.split() if answer.returncode == 0 else []
    return sorted({line for line in lines if re.fullmatch(r"\d+\.\d+", line)})


def cuda_major(pins: dict[str, str]) -> str:
    return pins["nvidia-cuda-runtime"].split(".")[0]


def wheel_folder(site: Site, flavour: Flavour) -> Path:
    """Where this mmcv is kept: one folder for each thing the binary depends on."""
    pins = site.pins()
    python = "py{}.{}".format(*sys.version_info)
    parts = (f"mmcv{pins['onedl-mmcv']}", f"torch{pins['torch']}", python)
    machine = f"{sys.platform}_{platform.machine()}"
    return site.cache / "-".join((*parts, flavour.name, machine))


def cached_wheel(folder: Path) -> Path | None:
    """The kept wheel, if there is one and it is whole."""
    for wheel in sorted(folder.glob("*.whl")):
        if has_compiled_ops(wheel):
            return wheel
    return None


def has_compiled_ops(wheel: Path) -> bool:
    try:
        names = zipfile.ZipFile(wheel).namelist()
    except (OSError, zipfile.BadZipFile):
        return False
    return any(re.fullmatch(r"mmcv/_ext[^/]*\.so", name) for name in names)
