"""The command lines of the measurements, at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks import attention_layer as benchmark_ops
from benchmarks import backbones as benchmark
from benchmarks import models, plot_scaling
from focal_mm.ops import backend_support, functional
from focal_mm.ops.common.backend import Backend
from focal_mm.ops.window.naive import NAIVE

ARCH = "8:1,1:1,2"
TINY = ["--arch", ARCH, "--device", "cpu", "--rounds", "2"]
SQUARES = ["--sizes", "28", "56", "84", "--batch", "1", "--settings", "detection"]


@pytest.fixture
def swin(monkeypatch):
    """What stands for a library's Swin: importing a real one takes long."""
    arch = models.parse_arch_option(ARCH)
    monkeypatch.setitem(
        models.SWINS,
        "mmdet",
        lambda _: lambda shape: models.build_focal(arch, "imagenet", "sdpa"),
    )


@pytest.fixture
def wrong(monkeypatch):
    """A backend that computes something else."""
    backend = Backend(
        name="wrong",
        run=lambda inputs: NAIVE.run(inputs) * 1.01,
        why_unavailable=lambda: "",
        why_unsupported=lambda inputs: "",
    )
    monkeypatch.setattr(functional, "BACKENDS", (*functional.BACKENDS, backend))


def test_table_and_json(swin, tmp_path, capsys):
    path = tmp_path / "out.json"
    options = ["--models", "focal", "mmdet", "--sizes", "28", "60x33", "--batch", "2"]
    assert benchmark.main([*TINY, *options, "--json", str(path)]) == 0
    out, err = capsys.readouterr()
    assert "28x28, batch 2, inference" in out
    assert "60x33, batch 2, training" in err
    assert "imagenet settings, focal_windows=(7, 5, 3, 1)" in out

    content = json.loads(path.read_text())
    assert content["complete"]
    assert content["command"].startswith(
        "python benchmarks/backbones.py --arch 8:1,1:1,2 "
    )
    assert content["machine"]["device"] == "cpu"
    assert {"python", "torch", "focal_mm"} <= set(content["versions"])
    usable = {item.name for item in backend_support() if item.ok}
    assert {check["backend"] for check in content["checks"]} == usable
    assert {f"Focal ({i.name})" for i in backend_support() if not i.ok} <= set(
        content["absent"]
    )
    cells = {(r["height"], r["width"], r["mode"]) for r in content["results"]}
    assert cells == {
        (*size, mode)
        for size in ((28, 28), (60, 33))
        for mode in ("inference", "training")
    }
    assert len(content["results"]) == len(cells) * (1 + len(usable))
    for row in content["results"]:
        assert row["batch"] == 2
        assert len(row["seconds"]) == 2
        assert row["best_seconds"] == min(row["seconds"]) > 0
        assert row["swin"] == "Swin (mmdet)"
        assert (row["speed_to_swin"] == 1) == (row["family"] == "swin")
        assert row["peak_bytes"] > 0


def test_nothing_is_reported_of_wrong_backends(swin, wrong, tmp_path, capsys):
    path = tmp_path / "out.json"
    options = ["--models", "focal", "mmdet", "--sizes", "28", "--json", str(path)]
    assert benchmark.main([*TINY, *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert not path.exists()
    last = err.splitlines()[-1]
    assert last.startswith("benchmark.py: Focal (wrong) is wrong, nothing is reported")
    assert "Traceback" not in err


def test_compiled_that_differs_leaves_no_figures(monkeypatch, tmp_path, capsys):
    """Of the cells before it neither."""
    monkeypatch.setattr(
        "torch.compile",
        lambda model, dynamic: models.build_focal(
            models.parse_arch_option(ARCH), "detection", "sdpa"
        ),
    )
    path = tmp_path / "out.json"
    options = ["--models", "focal", "--sizes", "28", "--compile", "--json", str(path)]
    assert benchmark.main([*TINY, *options]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert not path.exists()
    assert "compiled, is wrong" in err.splitlines()[-1]


def test_backend_that_cannot_run_does_not_stop_the_others(monkeypatch, capsys):
    backend = Backend(
        name="broken",
        run=NAIVE.run,
        why_unavailable=lambda: "",
        why_unsupported=lambda inputs: "it is Sunday",
    )
    monkeypatch.setattr(functional, "BACKENDS", (*functional.BACKENDS, backend))
    options = ["--models", "focal", "--sizes", "28", "--modes", "inference"]
    assert benchmark.main([*TINY, *options]) == 0
    out = capsys.readouterr().out
    assert "Focal (broken): not measured" in out
    assert "it is Sunday" in out
    assert benchmark.main([*TINY, *options, "--backends", "broken"]) == 1


@pytest.mark.slow
def test_compiled(tmp_path):
    path = tmp_path / "out.json"
    options = ["--models", "focal", "--backends", "sdpa", "--sizes", "28"]
    assert benchmark.main([*TINY, *options, "--compile", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["results"]
    assert [row["compiled"] for row in rows] == [False, True] * 2
    assert not any(row["failed"] for row in rows)
    assert all(row["peak_bytes"] > 0 for row in rows)


def test_interrupted_run_keeps_finished_cells(monkeypatch, tmp_path, capsys):
    path = tmp_path / "out.json"
    build = models.build_focal

    def until_the_second_cell(*args, **options):
        if path.exists():
            raise KeyboardInterrupt
        return build(*args, **options)

    monkeypatch.setattr(models, "build_focal", until_the_second_cell)
    options = ["--models", "focal", "--sizes", "28", "--json", str(path)]
    assert benchmark.main([*TINY, *options]) == 130
    out, err = capsys.readouterr()
    content = json.loads(path.read_text())
    assert not content["complete"]
    assert {row["mode"] for row in content["results"]} == {"inference"}
    assert "Stopped early" in out
    assert err.splitlines()[-1] == "benchmark.py: stopped by the user"


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--sizes", "12a"], 2, "'12a' is not a size such as 448 or 800x1333"),
        (["--sizes", "0x4"], 2, "'0x4' is not a size"),
        (["--rounds", "0"], 2, "'0' is not a whole number above 0"),
        (["--batch", "1", "2"], 1, "--batch: 2 numbers for 1 sizes"),
        (["--backends", "x"], 1, "there is no backend 'x': choose from ['auto', "),
        (["--device", "x"], 1, "--device x: unknown, use cpu, cuda or cuda:N"),
        (["--device", "meta"], 1, "only cpu and cuda are measured"),
        (["--device", "cuda:99"], 1, "--device cuda:99: PyTorch finds "),
        (["--arch", "huge"], 1, "--arch huge: arch must be one of "),
        (["--arch", "8:1:3"], 1, "num_heads=3 of stage 0 must divide"),
        (["--json", "gone/a.json"], 1, "there is no folder gone"),
        (["--json", "there.json"], 1, "there.json is there: another name, or"),
    ],
)
def test_errors_are_one_line(tmp_path, monkeypatch, capsys, options, code, message):
    monkeypatch.chdir(tmp_path)
    Path("there.json").write_text("mine")
    try:
        found = benchmark.main(["--models", "focal", "--sizes", "28", *options])
    except SystemExit as error:
        found = error.code
    err = capsys.readouterr().err
    assert found == code
    assert err.startswith("benchmark.py: ")
    assert message in err
    assert err.count("\n") == 1
    assert Path("there.json").read_text() == "mine"


def test_ops(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("benchmarks.attention._MATMUL", {"cpu": 32})
    monkeypatch.setattr("benchmarks.attention._COPY", {"cpu": 1024})
    path = tmp_path / "out.json"
    options = ["--backends", "sdpa", "naive", "--sizes", "56", "--json", str(path)]
    assert benchmark_ops.main([*TINY, *options, "--batch", "1"]) == 0
    assert "roofline" in capsys.readouterr().out
    rows = json.loads(path.read_text())["results"]
    assert [(row["stage"], row["backend"], row["pass"]) for row in rows] == [
        (stage, backend, run)
        for stage in (1, 2)
        for backend in ("sdpa", "naive")
        for run in ("forward", "forward+backward")
    ]
    assert all(row["flops_per_second"] > 0 for row in rows)


def test_ops_refuses_wrong_backends(wrong, capsys):
    options = [*TINY, "--sizes", "28", "--backends", "wrong"]
    assert benchmark_ops.main(options) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[-1].startswith("benchmark_ops.py: wrong is wrong")


def test_ops_has_no_such_stage(capsys):
    assert benchmark_ops.main([*TINY, "--stages", "3"]) == 1
    assert capsys.readouterr().err == (
        "benchmark_ops.py: --stages: 3 of a model with 2 stages\n"
    )


def test_plot_of_a_measurement(swin, tmp_path, capsys):
    """From the command line that measures to a picture that is not empty."""
    path, picture = tmp_path / "a.json", tmp_path / "a.png"
    options = [*TINY, *SQUARES, "--models", "focal", "mmdet", "--backends", "sdpa"]
    assert benchmark.main([*options, "--modes", "inference", "--json", str(path)]) == 0
    assert plot_scaling.main([str(path), "--out", str(picture)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"drawn: {picture}"
    drawn = cv2.imread(str(picture))
    assert min(drawn.shape[:2]) > 300
    assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 20

    before = picture.read_bytes()
    assert plot_scaling.main([str(path), "--out", str(picture), "--compiled"]) == 1
    assert "has no square sizes of models compiled" in capsys.readouterr().err
    assert picture.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["gone.json"], "cannot read gone.json"),
        (["other.json"], "other.json is not written by this version's tools/bench"),
        (["other.json", "--out", "a.jpg"], "--out a.jpg: its name must end in .png"),
        (["other.json", "--out", "gone/a.png"], "there is no folder gone"),
    ],
)
def test_plot_errors(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    Path("other.json").write_text('{"a": 1}')
    assert plot_scaling.main(options) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_runs_as_scripts():
    tools = [benchmark.__file__, benchmark_ops.__file__, plot_scaling.__file__]
    code = """
import contextlib, runpy, sys
for tool in sys.argv[1:]:
    sys.argv = [tool, "--help"]
    with contextlib.suppress(SystemExit):
        runpy.run_path(tool, run_name="__main__")
"""
    command = [sys.executable, "-c", code, *tools]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for tool in tools:
        assert f"usage: {Path(tool).name} " in done.stdout
