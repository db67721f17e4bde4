"""Measured figures in metafiles."""

import pytest
import yaml

COMMAND = "tools/dist_train.sh c.py 8 --work-dir w"


@pytest.fixture
def measured(suite):
    for seed, name in enumerate(["detector_1x", "detector_1x_seed1"]):
        arguments = dict(row="detector_1x", randomness=dict(seed=seed))
        suite.train(name, 4, [0.4] * 4, **arguments)
        suite.test(name, {"coco/bbox_mAP": 0.45 + seed / 100}, row="detector_1x")
        (suite.work_dirs / name / "reproduce.log").write_text(
            f"reproduce.py 2026-01-01 00:01:00: $ {COMMAND} # commit abc1234\n"
        )


def test_figures_are_written_where_the_zoo_takes_them(suite, measured, report_of):
    before = suite.metafile.read_text().splitlines()
    report_of("detector_1x", "--record")
    text = suite.metafile.read_text()
    model = yaml.safe_load(text)["Models"][0]
    assert model["Results"][-1] == {
        "Task": "Object Detection",
        "Dataset": "COCO",
        "Source": "measured",
        "Date": "2026-01-02",
        "Seeds": [0, 1],
        "Commit": "abc1234",
        "Command": COMMAND,
        "Metrics": {"box AP": 45.5},
        "Spread": {"box AP": 0.71},
    }
    after = text.splitlines()
    added = len(after) - len(before)
    place = next(i for i, line in enumerate(before) if after[i] != line)
    assert after[:place] + after[place + added :] == before


def test_twice_is_as_once_and_a_new_figure_replaces(suite, measured, report_of):
    report_of("detector_1x", "--record")
    once = suite.metafile.read_text()
    report_of("detector_1x", "--record")
    assert suite.metafile.read_text() == once
    suite.test("detector_1x", {"coco/bbox_mAP": 0.47}, stamp="20260105_000000")
    report_of("detector_1x", "--record")
    expected = once.replace("45.5", "46.5").replace("2026-01-02", "2026-01-05")
    assert suite.metafile.read_text() == expected


def test_a_row_without_results_gets_them(suite, report_of):
    suite.test("tiny_in1k", {"accuracy/top1": 81.2, "accuracy/top5": 95.0})
    report_of("tiny_in1k", "--record")
    text = suite.metafile.read_text()
    (entry,) = yaml.safe_load(text)["Models"][2]["Results"]
    assert entry["Metrics"] == {"Top-1": 81.2}
    assert (entry["Commit"], entry["Command"]) == ("unknown", "by hand")
    assert text.endswith("# A comment at the end.\n")


def test_what_has_not_ended_is_not_recorded(suite, capsys):
    before = suite.metafile.read_text()
    suite.train("detector_1x", 2, [0.1, 0.2])
    assert suite.call("report", "detector_1x", "--record") == 1
    assert "no run has ended" in capsys.readouterr().err
    assert suite.metafile.read_text() == before


def test_smoke_runs_are_never_taken_for_measurements(suite, report_of, capsys):
    """Not even where somebody has put their work dirs among the real ones."""
    suite.train("detector_1x", 4, [0.4] * 4, smoke=True)
    (entry,) = report_of("detector_1x")
    assert {figure["measured"] for figure in entry["figures"]} == {None}
    assert "a smoke run: left out" in entry["runs"][0]["notes"]
    assert suite.call("report", "detector_1x", "--record") == 1
    config = suite.work_dirs / "smoke" / "configs" / "detector_1x.py"
    config.parent.mkdir(parents=True)
    suite.config("detector_1x", smoke=True).dump(config)
    assert suite.call("report", "detector_1x", "--smoke", "--record") == 1
    output = capsys.readouterr()
    assert "smoke runs measure nothing" in output.err
    assert "toy data" in output.out
