"""The command lines that measure whole backbones and draw, at toy size."""

import json
import subprocess
import sys
from types import ModuleType

import cv2
import numpy as np
import pytest

from benchmarks import attention_layer, backbones, models

TINY = ["--arch", "toy", "--device", "cpu", "--rounds", "2", "--sizes", "28"]
OURS = [*TINY, "--models", "focal", "--backends", "sdpa", "--batch", "1"]


@pytest.fixture
def swin(monkeypatch):
    """What stands for a library's Swin: importing a real one takes long."""

    def build(shape, arch):
        model = models.build_focal(shape, arch, "imagenet", "sdpa")
        # mmdet's returns nothing.
        model.train = lambda mode: None
        return model

    monkeypatch.setitem(sys.modules, "mmdet", ModuleType("mmdet"))
    monkeypatch.setitem(models.SWINS, "mmdet", build)


@pytest.fixture
def wrong(monkeypatch):
    """The backend sdpa computes something else."""
    build = models.build_focal

    def build_wrong(*args, **options):
        model = build(*args, **options)
        if options["backend"] == "sdpa":
            model.register_forward_hook(lambda m, a, maps: tuple(x * 2 for x in maps))
        return model

    monkeypatch.setattr(models, "build_focal", build_wrong)


def test_table_and_json(swin, tmp_path, capsys):
    """Focal, Focal-fast and Swin, two sizes, both modes."""
    path = tmp_path / "out.json"
    options = ["--models", "focal", "mmdet", "--sizes", "28", "60x33", "--batch", "2"]
    options += ["--key-selection", "window", "topk", "--json", str(path)]
    assert backbones.main([*TINY, *options]) == 0
    out, err = capsys.readouterr()
    assert "28x28, batch 2, inference, focal windows of imagenet" in out
    assert "60x33, batch 2, training, focal windows of detection" in err
    assert "allocator: keeps freed memory" in out

    content = json.loads(path.read_text())
    assert content["arguments"]["arch"] == "toy"
    assert "torch" in content["versions"]
    assert content["skipped"] == {}
    usable = [item for item in models.backend_support() if item.ok]
    cells = {(*r["shape"], r["mode"]) for r in content["results"]}
    assert cells == {
        (*size, mode)
        for size in ((28, 28), (60, 33))
        for mode in ("inference", "training")
    }
    assert len(content["results"]) == len(cells) * (1 + len(usable))
    for row in content["results"]:
        assert len(row["seconds"]) == 2
        assert row["median_seconds"] > 0
        assert row["peak_bytes"] > 0
        assert (row["speed_to"]["mmdet"] == 1) == (row["model"] == "Swin (mmdet)")


def test_ratios_are_of_medians():
    swin, naive, fast, other = (
        models.Candidate("Swin (timm)", "timm", None),
        models.Candidate("Focal (naive)", "naive", None, "window"),
        models.Candidate("Focal (cpu)", "cpu", None, "window"),
        models.Candidate("Focal-fast (sdpa)", "sdpa", None, "topk"),
    )
    seconds = {swin: [1, 3, 9], naive: [8, 6, 1], fast: [2, 2, 1], other: [1, 1, 1]}
    peaks = {swin: 100, naive: 400, fast: 50, other: 25}
    cell = backbones.Cell((448, 448), 2, "training", False, "detection")
    rows = backbones.rows_of_cell(cell, seconds, peaks)
    assert rows[2]["speed_to"] == {"timm": 1.5, "naive": 3}
    assert rows[2]["memory_to"] == {"timm": 0.5, "naive": 0.125}
    # 'naive' is of the other key selection.
    assert rows[3]["speed_to"] == {"timm": 3}


def test_nothing_is_reported_of_wrong_backends(wrong, tmp_path, capsys):
    path = tmp_path / "out.json"
    assert backbones.main([*OURS, "--json", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert not path.exists()
    assert err.splitlines()[-1].startswith(
        f"{backbones.PROGRAM}: Focal (sdpa) is wrong, nothing is reported"
    )


def test_compiled_that_differs_leaves_no_figures(monkeypatch, tmp_path, capsys):
    """Of the cells before it neither."""
    other = models.build_focal((28, 28), "toy", "detection", "sdpa")
    monkeypatch.setattr("torch.compile", lambda model, dynamic: other)
    path = tmp_path / "out.json"
    assert backbones.main([*OURS, "--compile", "--json", str(path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert not path.exists()
    assert "compiled, is wrong" in err.splitlines()[-1]


@pytest.mark.slow
def test_compiled(tmp_path):
    path = tmp_path / "out.json"
    assert backbones.main([*OURS, "--compile", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["results"]
    assert [row["compiled"] for row in rows] == [False, True] * 2
    assert all(row["peak_bytes"] > 0 for row in rows)


def test_what_cannot_run_is_said_in_one_line(monkeypatch, capsys):
    def fail(shape, arch):
        raise RuntimeError("no kernel\nfor this")

    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setitem(sys.modules, "mmdet", ModuleType("mmdet"))
    monkeypatch.setitem(models.SWINS, "mmdet", fail)
    options = [*OURS, "--modes", "inference"]
    assert backbones.main([*options, "--models", "focal", "mmdet", "timm"]) == 0
    out = capsys.readouterr().out
    assert "Swin (timm) is not measured: ModuleNotFoundError" in out
    assert "focal windows of imagenet is not measured: RuntimeError: no kernel" in out
    assert backbones.main([*options, "--models", "timm"]) == 1
    assert "nothing was measured: Swin (timm): Mod" in capsys.readouterr().err


def test_interrupted_run_keeps_finished_cells(monkeypatch, tmp_path, capsys):
    start = backbones.start

    def until_training(cell, *args):
        if cell.mode == "training":
            raise KeyboardInterrupt
        return start(cell, *args)

    monkeypatch.setattr(backbones, "start", until_training)
    path = tmp_path / "out.json"
    assert backbones.main([*OURS, "--json", str(path)]) == 130
    out, err = capsys.readouterr()
    content = json.loads(path.read_text())
    assert {row["mode"] for row in content["results"]} == {"inference"}
    assert "Focal (sdpa)" in out
    assert err.splitlines()[-1] == f"{backbones.PROGRAM}: stopped by the user"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--sizes", "12a"], 2, "'12a' is not a size such as 448 or 800x1333"),
        (["--sizes", "0x4"], 2, "'0x4' is not a size"),
        (["--rounds", "0"], 1, "--rounds and --batch must be at least 1"),
        (["--backends", "x"], 2, "invalid choice: 'x'"),
        (["--batch", "1", "2"], 1, "--batch: 2 numbers for 1 sizes"),
        (["--arch", "huge"], 2, "invalid choice: 'huge'"),
    ],
)
def test_errors_are_one_line(capsys, options, code, message):
    try:
        found = backbones.main([*TINY, "--models", "focal", *options])
    except SystemExit as stop:
        found = stop.code
    assert found == code
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_plot_of_a_measurement(swin, tmp_path):
    """A picture that is not empty."""
    picture = tmp_path / "a.png"
    options = [*OURS, "--models", "focal", "mmdet", "--modes", "inference"]
    assert (
        backbones.main([*options, "--sizes", "28", "56", "--plot", str(picture)]) == 0
    )
    drawn = cv2.imread(str(picture))
    assert min(drawn.shape[:2]) > 300
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20


def test_run_as_modules():
    names = [m.__name__ for m in (attention_layer, backbones)]
    code = """
import contextlib, runpy, sys
for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_module(name, run_name="__main__")
"""
    command = [sys.executable, "-W", "ignore", "-c", code, *names]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in names:
        assert f"usage: python -m {name} " in done.stdout
