"""The environment report, on this environment and on broken ones."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

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
    for name in ("torch", "torchvision"):
        [row] = [row for row in rows if row[0].strip() == name]
        assert row[1].strip() == metadata.version(name)
    assert focal_mm.__version__ in report.stdout
    assert {backend.name for backend in backend_support()} <= set(first_cells)
    assert {"python", "mmengine", "mmcv", "cpu", "CPU", "GPU"} <= set(first_cells)


@pytest.fixture
def report(capsys):
    """Runs the check here and returns its exit code and text."""

    def run() -> tuple[int, str]:
        code = check_env.main()
        return code, capsys.readouterr().out

    return run


def test_operators_that_do_not_load_fail_with_the_reason(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmcv.ops", None)
    reason = check_env.import_problem("mmcv.ops")
    code, text = report()
    assert code == 1
    [line] = [line for line in text.splitlines() if line.startswith("ERROR")]
    assert "mmcv's operators do not run on cpu" in line
    assert reason in line
    assert "mmcv.ops" in reason


def test_operators_that_fail_or_err_are_reported(monkeypatch):
    def missing(*args, **kwargs):
        raise RuntimeError("nms: implementation for device cpu not found.\ntrace")

    monkeypatch.setattr("mmcv.ops.nms", missing)
    assert check_env.run_problem("cpu") == (
        "nms: implementation for device cpu not found."
    )

    def wrong(boxes, scores, iou_threshold):
        return boxes, scores.argsort()

    monkeypatch.setattr("mmcv.ops.nms", wrong)
    assert "wrong result" in check_env.run_problem("cpu")


def test_two_families_are_an_error(report, monkeypatch, tmp_path):
    info = tmp_path / "mmengine-0.10.7.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: mmengine\nVersion: 0.10.7\n")
    monkeypatch.syspath_prepend(tmp_path)
    code, text = report()
    assert code == 1
    [line] = [line for line in text.splitlines() if line.startswith("ERROR")]
    assert "two OpenMMLab families" in line
    assert "onedl-mmengine" in line
    assert "and mmengine)" in line


def test_a_library_that_refuses_to_load_is_an_error(report, monkeypatch):
    monkeypatch.setitem(sys.modules, "mmpretrain", None)
    code, text = report()
    assert code == 1
    assert "ERROR: mmpretrain cannot be imported: ModuleNotFoundError" in text


def test_backends_are_listed_with_their_reasons(report, monkeypatch):
    backends = [
        SimpleNamespace(name="fast", ok=False, reason="needs a GPU of 2030"),
        SimpleNamespace(name="plain", ok=True, reason=""),
    ]
    monkeypatch.setattr("focal_mm.ops.backend_support", lambda: backends)
    code, text = report()
    assert code == 0
    assert "needs a GPU of 2030" in text
    del backends[1]
    code, text = report()
    assert code == 1
    assert "ERROR: no attention backend" in text


def test_plain_columns_say_the_same_without_rich(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    table = check_env.Table("Title", ("a", "b"), [("long cell", "x"), ("y", "z")], [])
    check_env.printer()(table)
    assert capsys.readouterr().out.splitlines() == [
        "Title",
        "  a          b",
        "  long cell  x",
        "  y          z",
    ]
