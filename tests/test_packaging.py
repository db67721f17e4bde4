"""The built wheel: what it requires, what it carries and what not, and the pins."""

import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from focal_mm import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("focal_mm", "configs", "tools", "setup.py", "pyproject.toml", "MANIFEST.in")
CONFIG = "configs/det/mask_rcnn_focal_tiny_3x.py"
UPSTREAM = {"mmengine", "mmcv", "mmdet", "mmsegmentation", "mmpretrain"}

READ_CONFIG = """
import pathlib, sys
import focal_mm
from mmengine.config import Config
from mmengine.registry import MODELS
package = pathlib.Path(focal_mm.__file__).parent
assert package == pathlib.Path(sys.argv[1], "focal_mm"), package
config = Config.fromfile(str(package / ".mim" / sys.argv[2]))
backbone = MODELS.build(config.model.backbone)
assert isinstance(backbone, focal_mm.FocalTransformer)
"""


def pip(*args: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *args, "--no-deps", "--no-index"],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy: a build leaves folders beside its sources."""
    copy = tmp_path_factory.mktemp("source")
    for name in (*SOURCES, "README.md", "LICENSE", "model-index.yml"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name)
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy)
    before = tree(copy)
    out = tmp_path_factory.mktemp("dist")
    pip("wheel", "--no-build-isolation", "-w", str(out), str(copy), cwd=out)
    left = {p for p in tree(copy) - before if p.parts[0] not in ("build",)}
    assert all(p.parts[0] == "focal_mm.egg-info" for p in left), left
    [wheel] = out.glob("*.whl")
    return wheel


def tree(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def package_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_wheel_carries_the_package_its_configs_and_tools(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    source = {
        path.relative_to(ROOT).as_posix()
        for top in ("focal_mm", "configs", "tools")
        for path in (ROOT / top).rglob("*.*")
        if path.suffix in (".py", ".sh", ".yml", ".md", ".j2")
    }
    expected = {
        name if name.startswith("focal_mm/") else f"focal_mm/.mim/{name}"
        for name in source
    }
    if (ROOT / "model-index.yml").exists():
        expected.add("focal_mm/.mim/model-index.yml")
    assert f"focal_mm/.mim/{CONFIG}" in expected
    assert expected <= names
    others = names - expected
    # Compiled, as PyTorch and g++ are here.
    [operator] = [name for name in others if name.endswith(".so")]
    assert operator.startswith("focal_mm/ops/window/cpu/_attention_")
    tops = {name.split("/")[0] for name in others - {operator}}
    assert tops <= {f"focal_mm-{__version__}.dist-info"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_wheel_has_no_benchmark_toy_data_or_setup(wheel):
    with zipfile.ZipFile(wheel) as archive:
        folders = {part for name in archive.namelist() for part in name.split("/")[:-1]}
        files = {name.split("/")[-1] for name in archive.namelist()}
    outside = {"benchmark", "benchmarks", "toy", "setup_support", "requirements"}
    assert not folders & (outside | {"tests", "docs"})
    assert not [name for name in files if re.match(r"(setup|benchmark|make_toy)", name)]


def test_wheel_works_outside_the_repository(wheel, tmp_path):
    target = tmp_path / "site"
    pip("install", "--target", str(target), str(wheel), cwd=tmp_path)
    away = tmp_path / "away"
    away.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", READ_CONFIG, str(target), CONFIG],
        cwd=away,
        env={"PYTHONPATH": str(target), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def requirements(package_metadata, extra: str = "") -> dict[str, Requirement]:
    """What an install with one extra asks for, by canonical name."""
    every = map(Requirement, package_metadata.get_all("Requires-Dist"))
    environment = {"extra": extra}
    return {
        canonicalize_name(r.name): r
        for r in every
        if r.marker is None or r.marker.evaluate(environment)
    }


def test_base_needs_torch_alone_and_nothing_needs_the_upstream_family(
    package_metadata,
):
    assert package_metadata["Version"] == __version__
    assert set(requirements(package_metadata)) == {"torch"}
    extras = package_metadata.get_all("Provides-Extra")
    users = {"engine", "hub", "timm", "cls", "det", "seg", "instaboost", "all"}
    assert set(extras) == users | {"dev", "docs"}
    for extra in extras:
        assert not UPSTREAM & set(requirements(package_metadata, extra))


def test_extras_are_complete_in_themselves(package_metadata):
    families = {"det": "onedl-mmdetection", "seg": "onedl-mmsegmentation"}
    for extra in ("cls", "det", "seg", "instaboost", "all"):
        names = set(requirements(package_metadata, extra))
        assert {"onedl-mmengine", "onedl-mmcv", "torchvision"} <= names
        assert families.get(extra, "onedl-mmpretrain") in names
        assert names <= set(requirements(package_metadata, "all"))


def test_the_extras_of_create_model_need_no_task_library(package_metadata):
    engine = {"torch", "onedl-mmengine", "opencv-python-headless", "safetensors"}
    assert set(requirements(package_metadata, "engine")) == engine
    hub = engine | {"huggingface-hub"}
    assert set(requirements(package_metadata, "hub")) == hub
    assert set(requirements(package_metadata, "timm")) == hub | {"timm"}


def pins_of(file: str, python: str) -> dict[str, str]:
    """The versions that one Python gets from a file of pins, by canonical name."""
    versions: dict[str, str] = {}
    for line in (ROOT / "requirements" / file).read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = re.fullmatch(r"([\w.-]+)==([\w.]+)(?:; (.+))?", line)
        assert pin, line
        if pin[3] and not Marker(pin[3]).evaluate({"python_version": python}):
            continue
        name = canonicalize_name(pin[1])
        assert name not in versions, f"{name} is pinned twice"
        versions[name] = pin[2]
    return versions


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_every_requirement_has_one_exact_pin(package_metadata, python):
    versions = pins_of("constraints.txt", python)
    for extra in ("all", "dev", "docs"):
        for name, asked in requirements(package_metadata, extra).items():
            assert asked.specifier.contains(versions[name]), asked
    assert set(pins_of("upstream.txt", python)) > UPSTREAM


def test_the_upstream_family_is_pinned_with_the_oldest_torch(package_metadata):
    [oldest] = requirements(package_metadata)["torch"].specifier
    assert oldest.operator == ">="
    assert pins_of("upstream.txt", "3.11")["torch"].startswith(f"{oldest.version}.")
