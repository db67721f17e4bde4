"""Ratios and the document."""

import json

import pytest

from benchmarks.models import Contestant
from benchmarks.report import (
    milliseconds,
    read_json,
    rows_of_cell,
    write_json,
)
from benchmarks.runner import Cell, Result
from benchmarks.timing import Times
from focal_mm.engine import UserError

CELL = Cell((448, 448), 2, "training", False, "detection")


def result(name, family, backend="", *, seconds=None, peak=None, failed=""):
    contestant = Contestant(name, family, backend, build=None)
    times = Times(seconds) if seconds else None
    return Result(CELL, contestant, times, peak, failed)


def test_ratios_are_to_the_stronger_swin():
    rows = rows_of_cell(
        [
            result("Swin (a)", "swin", seconds=(4.0, 4.0, 4.0), peak=100),
            result("Swin (b)", "swin", seconds=(3.0, 9.0, 9.0), peak=50),
            result("fast", "focal", "fast", seconds=(2.0, 6.0, 6.0), peak=25),
            result("slow", "focal", "naive", seconds=(6.0, 6.0, 9.0), peak=200),
            result("none", "focal", "none", failed="no device"),
        ]
    )
    fast, slow, none = rows[2:]
    assert {row["swin"] for row in rows} == {"Swin (b)"}
    assert (fast["speed_to_swin"], fast["median_speed_to_swin"]) == (1.5, 1.5)
    assert (fast["speed_to_naive"], fast["memory_to_swin"]) == (3.0, 0.5)
    assert (slow["speed_to_swin"], slow["memory_to_naive"]) == (0.5, 1.0)
    assert none["failed"] == "no device"
    assert none["best_seconds"] is none["speed_to_swin"] is none["peak_bytes"] is None


def test_without_swin_there_is_no_ratio_to_it():
    (row,) = rows_of_cell([result("x", "focal", "x", seconds=(1.0,), peak=1)])
    assert row["swin"] is row["speed_to_swin"] is row["speed_to_naive"] is None


def test_failed_writing_leaves_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_reads_its_own_files_only(tmp_path):
    path = tmp_path / "a.json"
    for text in ("{}", "[1]", "no json"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"a\.json"):
            read_json(path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1.2345, "1234"), (0.0123, "12.3"), (0.0012345, "1.23"), (1e-5, "0.0100")],
)
def test_milliseconds(seconds, text):
    assert milliseconds(seconds) == text
