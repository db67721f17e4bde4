"""Packaging of focal_mm: what it needs, and the configs that travel with it."""

import re
import shutil
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent

# Two OpenMMLab families install the same import names: the upstream one (mmengine,
# mmcv, mmdet, ...) and the maintained one (onedl-mmengine, onedl-mmcv, ...). In one
# environment they overwrite each other, and requirements cannot say "either". So the
# base names neither, although `import focal_mm` needs an mmengine: users of the
# upstream family install the base alone beside their own; all others take an extra.
# torch 2.6 is the first that reads what MMEngine's runner stores beside weights without
# executing it, and the oldest that the tests run with (`make test-upstream`).
BASE = ["torch>=2.6"]
# MMEngine imports cv2 without requiring it; this one needs no display's libraries.
ENGINE = ["onedl-mmengine>=0.10.8", "opencv-python-headless", "safetensors>=0.4"]
# What focal_mm.create_model can do besides: models of the Hugging Face Hub, and timm's
# scripts. Of timm, the versions that name what builds and registers a model.
HUB = [*ENGINE, "huggingface_hub>=0.23"]
TIMM = [*HUB, "timm>=1.0"]
# mmcv comes as source. Its operators are compiled only if torch is installed before and
# build isolation is off (`make setup` sees to both); else they are missing silently.
MMCV = [*ENGINE, "onedl-mmcv>=2.3"]
# mmpretrain imports torchvision without requiring it.
CLS = [*MMCV, "onedl-mmpretrain>=1.3", "torchvision"]
# mmdet imports mmpretrain; neither requires mmcv or mmengine in its own metadata.
DET = [*CLS, "onedl-mmdetection>=3.5"]
SEG = [*CLS, "onedl-mmsegmentation>=1.4"]
# For HTC++: a transform that MMDetection has and whose package it does not require.
INSTABOOST = [*DET, "instaboostfast>=0.1.2"]
EXTRAS = {
    "engine": ENGINE,
    "hub": HUB,
    "timm": TIMM,
    "cls": CLS,
    "det": DET,
    "seg": SEG,
    "instaboost": INSTABOOST,
    "all": sorted({*CLS, *DET, *SEG, *INSTABOOST, *TIMM}),
    "dev": ["hypothesis", "lmdb", "pre-commit", "psutil", "pytest", "ruff"],
    "docs": ["mkdocs-material", "mkdocstrings[python]"],
}


def cpu_operator() -> tuple[list[Extension], dict[str, type]]:
    """The operator of attention on CPUs, and the command that compiles it.

    Without PyTorch or a compiler focal_mm installs all the same, and says what it lacks
    when it is used. The operator's name tells which PyTorch it is for.
    """
    try:
        import torch
        from torch.utils.cpp_extension import BuildExtension, CppExtension
    except ImportError:
        return [], {}
    major, minor = torch.__version__.split(".")[:2]
    operator = CppExtension(
        f"focal_mm.ops.window.cpu._attention_{major}_{minor}",
        ["focal_mm/ops/window/cpu/attention.cpp"],
        # Vectors are passed to inlined functions only, whatever the warning says.
        extra_compile_args=["-O3", "-g0", "-Wno-psabi"],
        optional=True,
    )
    build = BuildExtension.with_options(no_python_abi_suffix=True, use_ninja=False)
    return [operator], {"build_ext": build}


class BuildWithConfigs(build_py):
    """Copies configs and tools to where OpenMMLab's packages have them, ``.mim``.

    Into the built package, never into the source tree.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "focal_mm", ".mim")
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        shutil.copy2(ROOT / "model-index.yml", target)
        for name in ("configs", "tools"):
            skipped = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(ROOT / name, target / name, ignore=skipped)


def read_version() -> str:
    """Read, not imported: an import would need torch while it is being installed."""
    text = (ROOT / "focal_mm" / "version.py").read_text()
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


OPERATORS, COMMANDS = cpu_operator()
setup(
    name="focal_mm",
    version=read_version(),
    description="Focal Transformer backbones for the OpenMMLab libraries",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    packages=find_packages(include=["focal_mm", "focal_mm.*"]),
    package_data={"focal_mm": ["engine/report/*.j2"]},
    python_requires=">=3.10",
    install_requires=BASE,
    extras_require=EXTRAS,
    ext_modules=OPERATORS,
    cmdclass={"build_py": BuildWithConfigs, **COMMANDS},
    zip_safe=False,
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12)),
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
