"""The environment report, on this environment and on broken ones."""

import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pytest

import focal_mm
from focal_mm.ops import backend_support
from tools import check_env

ROOT = Path(__file__).resolve().parents[2]


def test_report_of_this_environment(tmp_path):
    report = subprocess.run(
        [sys.executable, str(ROOT / "tools/check_env.py")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.returncode == 0, report.stdout + report.stderr
    rows = [line.strip("│ ").split("│") for line in report.stdout.splitlines()]
    first_cells = [cell[0].strip() for cell in rows]
    assert ["numpy", metadata.version("numpy")] in [
        [cell.strip() for cell in row] for row in rows
    ]
    assert focal_mm.__version__ in report.stdout
    assert {backend.name for backend in backend_support()} <= set(first_cells)
    assert {"Python", "mmengine.runner", "mmcv.ops", "FocalTransformer"} <= set(
        first_cells
    )


@pytest.fixture
def report(capsys):
    """Runs the check here and returns its exit code, text and errors."""
    # What a test breaks must not be half imported by the others, which fail then.
    for module in check_env.FAMILIES:
        importlib.import_module(module)

    def run() -> tuple[int, str, list[str]]:
        code = check_env.main()
        text = capsys.readouterr().out
        return code, text, [li for li in text.splitlines() if li.startswith("ERROR")]

    return run


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("mmseg.apis", "mmseg.apis ("),
        ("mmcv.ops", "mmcv's operators, compiled for this torch and device (cpu): Mod"),
    ],
)
def test_what_is_used_is_imported(report, monkeypatch, module, message):
    """Though the library that it is in can be imported."""
    monkeypatch.setitem(sys.modules, module, None)
    code, _, errors = report()
    assert code == 1
    assert any(message in line for line in errors)


def test_versions_that_do_not_fit(report, monkeypatch, tmp_path):
    """As mmdet says that mmcv is too new for it."""
    (tmp_path / "refusing.py").write_text("assert 0, 'MMCV==2.2.0 is used'")
    monkeypatch.syspath_prepend(tmp_path)
    # Of the family that is installed, whichever that is.
    ours, _ = check_env.FAMILIES["mmengine.runner"]
    names = ("torch", "absent") if check_env.installed([ours]) else ("absent", "torch")
    monkeypatch.setitem(check_env.FAMILIES, "refusing", names)
    code, _, (error,) = report()
    assert code == 1
    assert error.startswith("ERROR: refusing (torch ")
    assert error.endswith("AssertionError: MMCV==2.2.0 is used")


def test_operators_that_err(report, monkeypatch):
    def wrong(boxes, scores, iou_threshold):
        return boxes, scores.argsort()

    monkeypatch.setattr("mmcv.ops.nms", wrong)
    code, _, (error,) = report()
    assert code == 1
    assert "wrong result, kept boxes [1, 0]" in error


def test_a_backbone_that_does_not_run(report, monkeypatch):
    def broken(self, x):
        raise AttributeError("module 'torch.compiler' has no attribute 'is_compiling'")

    monkeypatch.setattr(focal_mm.FocalTransformer, "forward", broken)
    code, _, (error,) = report()
    assert code == 1
    assert "FocalTransformer (cpu): AttributeError" in error


def test_two_families_are_an_error(report, monkeypatch, tmp_path):
    ours, other = check_env.FAMILIES["mmengine.runner"]
    if check_env.installed((other,)):
        ours, other = other, ours
    info = tmp_path / f"{other.replace('-', '_')}-0.10.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Name: {other}\nVersion: 0.10.7\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, _, errors = report()
    assert code == 1
    (error,) = [line for line in errors if "two families" in line]
    assert ours in error
    assert other in error


def test_backends_are_listed_with_all_that_is_known(report, monkeypatch):
    class Support(NamedTuple):
        name: str
        ok: bool
        reason: str
        extra: str

    backends = [Support("fast", False, "needs a GPU of 2030", "more")]
    monkeypatch.setattr(check_env, "backend_support", lambda: backends)
    code, text, _ = report()
    assert code == 0
    assert all(word in text for word in ("fast", "needs a GPU of 2030", "more"))
