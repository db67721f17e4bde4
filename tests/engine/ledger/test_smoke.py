"""Real rows, made small: trained, resumed, tested and reported by the real tools."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from focal_mm.engine.ledger.rows import Row, on_server, read_recipe, read_rows
from focal_mm.engine.report.work_dir import WorkDir

ROOT = Path(__file__).parents[3]
PROGRAM = ROOT / "tools" / "reproduce.py"
CLS, DET = "focal_tiny_in1k_224", "mask_rcnn_focal_tiny_1x"
SEG = "upernet_focal_tiny_512x512_160k_ade20k"
ACCEPTANCE = [DET, "mask_rcnn_swin_tiny_1x", CLS]
ROWS = read_rows(ROOT)


def start(command: str, *words: str, folder: Path) -> subprocess.Popen:
    """Start reproduce.py on the CPU, as from a shell in a folder."""
    env = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": "-1"}
    path = [str(ROOT), os.environ.get("PYTHONPATH")]
    env["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    return subprocess.Popen(
        [sys.executable, PROGRAM, command, *words, "--smoke"],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def reproduce(command: str, *words: str, folder: Path) -> str:
    process = start(command, *words, folder=folder)
    output, _ = process.communicate()
    logs = folder.glob("work_dirs/smoke/*/reproduce.log")
    tails = "\n".join(log.read_text(errors="replace")[-3000:] for log in logs)
    assert process.returncode == 0, f"{output}\n{tails}"
    return output


def kill_when(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    """Kill a process and all that it has started, as a power cut does."""
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    family = psutil.Process(process.pid)
    for member in [family, *family.children(recursive=True)]:
        member.kill()
    process.communicate()


def report(names: list[str], folder: Path) -> list[dict]:
    path = folder / "report.json"
    reproduce("report", *names, "--json", str(path), folder=folder)
    return json.loads(path.read_text())


def test_one_row_of_each_task_and_a_kill(tmp_path):
    """The detector and the segmentor start from what the classifier has trained."""
    work_dirs, names = tmp_path / "work_dirs" / "smoke", [CLS, DET, SEG]
    partial = work_dirs / CLS / "epoch_1.pth"
    # In the midst of writing a checkpoint.
    kill_when(partial.exists, start("run", *names, folder=tmp_path))
    assert "3 of 3 runs are done" in reproduce("run", *names, folder=tmp_path)
    for name in names:
        work_dir = WorkDir(work_dirs / name)
        steps = [line["step"] for line in work_dir.train_curve()]
        assert steps == [1, 2, 3, 4], "iterations are missing or there twice"
        output = (work_dirs / name / "reproduce.log").read_text(errors="replace")
        assert re.search(r"resumed epoch: \d, iter: 2", output)
        if name != CLS:
            assert re.search(rf"weights from .*{CLS}/epoch_2\.pth", output)
    rows = report(names, tmp_path)
    assert {run["done"] for row in rows for run in row["runs"]} == {True}
    figures = [figure for row in rows for figure in row["figures"]]
    assert {figure["from"] for figure in figures} == {"test"}
    assert {"box AP", "mIoU(ms)", "Top-1"} < {figure["metric"] for figure in figures}
    assert {figure["difference"] for figure in figures} == {None}
    page = (work_dirs / "report" / "report.html").read_text()
    assert "its figures say nothing about the rows" in page
    assert page.count("data:image/png") == len(names)


@pytest.mark.slow
@pytest.mark.training
def test_killed_twice_gives_the_same_report(tmp_path):
    unbroken, broken = tmp_path / "unbroken", tmp_path / "broken"
    unbroken.mkdir()
    broken.mkdir()
    reproduce("run", *ACCEPTANCE, folder=unbroken)
    work_dirs = broken / "work_dirs" / "smoke"

    def training() -> bool:
        logs = (work_dirs / CLS).glob("*/vis_data/scalars.json")
        return any("loss" in log.read_text() for log in logs)

    # While it trains, and while it writes a checkpoint.
    for reached in (training, (work_dirs / DET / "epoch_2.pth").exists):
        kill_when(reached, start("run", *ACCEPTANCE, folder=broken))
    reproduce("run", *ACCEPTANCE, folder=broken)
    assert report(ACCEPTANCE, broken) == report(ACCEPTANCE, unbroken)
    assert written(broken) == written(unbroken)


def written(folder: Path) -> dict[str, bytes]:
    """The files of a report."""
    out = folder / "work_dirs" / "smoke" / "report"
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which rows find the pre-training of earlier ones."""
    return tmp_path_factory.mktemp("smoke")


@pytest.fixture
def _little_disk(shared: Path) -> Iterator[None]:
    """Of a row, what no other starts from is removed; of the others, one checkpoint."""
    yield
    sources = {read_recipe(row.config).pretraining for row in ROWS}
    for path in (shared / "work_dirs" / "smoke").glob("*/*.pth"):
        if path.parent.name not in sources or path.stem == "epoch_1":
            path.unlink()


@pytest.mark.slow
@pytest.mark.training
@pytest.mark.usefixtures("_little_disk")
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row(row: Row, shared: Path):
    reproduce("run", row.name, folder=shared)
    (entry,) = report([row.name], shared)
    (run,) = entry["runs"]
    assert run["done"]
    # In CPU processes SyncBN is BN.
    assert all("norm_cfg.type" in note for note in run["notes"])
    # ImageNet-22K has no validation set.
    tested = [f for f in entry["figures"] if f["dataset"] != "COCO test-dev"]
    assert {figure["from"] for figure in tested} <= {"test"}
    if any(on_server(figure) for figure in row.published):
        output = reproduce("test-dev", row.name, folder=shared)
        paths = [shared / line.split(": ")[1] for line in output.splitlines()[1:]]
        kinds = {path.parent.name for path in paths}
        assert kinds >= {"bbox"}
        for path in paths:
            with zipfile.ZipFile(path) as archive:
                (name,) = archive.namelist()
                predictions = json.loads(archive.read(name))
            assert name == f"detections_test-dev2017_{row.name}_results.json"
            keys = {"bbox": "bbox", "segm": "segmentation"}[path.parent.name]
            expected = {"image_id", "category_id", "score", keys}
            assert predictions
            assert all(set(prediction) == expected for prediction in predictions)
