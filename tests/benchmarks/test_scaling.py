"""The lines of the plot, and what is drawn."""

import copy

import pytest

from benchmarks.scaling import fit_line, read_series
from focal_mm.engine import UserError

SIDES = (224, 448, 896)


def row(model, family, backend, side, seconds, **others):
    return {
        "model": model,
        "family": family,
        "backend": backend,
        "height": side,
        "width": side,
        "batch": 2,
        "mode": "inference",
        "compiled": False,
        "settings": "detection" if family == "focal" else None,
        "best_seconds": seconds,
        "peak_bytes": side,
        **others,
    }


@pytest.fixture
def content():
    rows = []
    for side in reversed(SIDES):
        rows.append(row("S", "swin", None, side, side * 2.0))
        rows.append(row("F (a)", "focal", "a", side, side * 4.0))
        rows.append(row("F (b)", "focal", "b", side, side * 3.0))
    # Reaches less far, so it is not the one to draw.
    rows.append(row("F (c)", "focal", "c", 224, 1.0))
    rows.append(row("S", "swin", None, 800, 1.0, width=1333, batch=1))
    return {"results": rows}


def test_line_through_points_of_a_line():
    line = fit_line([1, 10, 100], [7, 25, 205])
    assert (line.constant, line.slope) == pytest.approx((5, 2))
    assert line.deviation == pytest.approx(0, abs=1e-9)


def test_quadratic_cost_does_not_pass_for_a_line():
    assert fit_line([1, 4, 16, 64], [1, 16, 256, 4096]).deviation > 0.5


def test_constant_is_never_negative():
    line = fit_line([1, 2, 3], [1, 3, 5])
    assert line.constant == 0
    assert line.slope > 0


def test_square_sizes_of_swin_and_the_fastest_of_ours(content):
    focal, swin = read_series(content, "inference", False)
    assert (focal.name, swin.name) == ("F (b)", "S")
    assert focal.pixels == swin.pixels == tuple(side**2 for side in SIDES)
    # Of one image, where two were measured.
    assert focal.seconds == tuple(side * 1.5 for side in SIDES)
    assert read_series(content, "inference", False, "a")[0].name == "F (a)"
    assert read_series(content, "training", False) == []


def test_auto_comes_before_the_fastest(content):
    for item in copy.deepcopy(content["results"]):
        if item["backend"] == "a":
            content["results"].append({**item, "model": "F (auto)", "backend": "auto"})
    assert read_series(content, "inference", False)[0].name == "F (auto)"


def test_what_cannot_be_drawn(content):
    with pytest.raises(UserError, match="'x' was not measured"):
        read_series(content, "inference", False, "x")
    with pytest.raises(UserError, match=r"F \(c\) has 1 square sizes, 3"):
        read_series(content, "inference", False, "c")
    content["results"][0]["batch"] = 3
    with pytest.raises(UserError, match="different batches"):
        read_series(content, "inference", False)
    content["results"][0]["batch"] = 2
    content["results"][1]["settings"] = "imagenet"
    with pytest.raises(UserError, match="different focal settings"):
        read_series(content, "inference", False)
