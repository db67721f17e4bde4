"""States and figures from what is on disk."""

import json
import re

import pytest

from focal_mm.engine.lock import TRAINING_LOCK, hold
from focal_mm.engine.report.work_dir import WorkDir


def states(suite, capsys, *words) -> dict[str, str]:
    """What status says of each run."""
    capsys.readouterr()
    assert suite.call("status", *words) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    return dict(re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines)


def figures(rows: list[dict], row: str) -> dict[str, dict]:
    (found,) = [entry for entry in rows if entry["row"] == row]
    return {f"{f['metric']}, {f['dataset']}": f for f in found["figures"]}


class TestStatus:
    def test_nothing_has_started(self, suite, capsys):
        assert set(states(suite, capsys).values()) == {"not started"}

    def test_epochs_and_eta(self, suite, capsys):
        suite.train("detector_1x", 3, [0.1, 0.2, 0.3])
        found = states(suite, capsys)["detector_1x"]
        assert found == "epoch 3 of 4, ETA 1 day, 2:03:04, stopped"

    def test_who_trains_is_named(self, suite, capsys):
        suite.train("detector_1x", 3, [0.1, 0.2, 0.3])
        with hold(suite.work_dirs / "detector_1x" / TRAINING_LOCK):
            found = states(suite, capsys, "detector_1x")["detector_1x"]
        assert re.search(r"ETA .*, process \d+ on \S+, since 2", found)

    def test_a_test_makes_it_done(self, suite, capsys):
        suite.train("detector_public", 4, [0.1] * 4)
        found = states(suite, capsys)["detector_public"]
        assert found == "epoch 4 of 4, to be tested"
        suite.test("detector_public", {"coco/bbox_mAP": 0.4}, checkpoint="epoch_3.pth")
        assert "to be tested" in states(suite, capsys)["detector_public"]
        suite.test("detector_public", {"coco/bbox_mAP": 0.4}, stamp="20260103_000000")
        assert states(suite, capsys)["detector_public"] == "done"

    def test_multi_scale_is_a_test_of_its_own(self, suite, capsys):
        suite.train("detector_1x", 4, [0.1] * 4)
        suite.test("detector_1x", {"coco/bbox_mAP": 0.4})
        assert "to be tested" in states(suite, capsys)["detector_1x"]
        metrics, stamp = {"coco/segm_mAP": 0.4}, "20260103_000000"
        suite.test("detector_1x", metrics, stamp=stamp, augmented=True)
        assert states(suite, capsys)["detector_1x"] == "done"

    def test_a_failure_is_told_until_somebody_goes_on(self, suite, capsys):
        suite.train("detector_1x", 1, [0.1])
        (suite.work_dirs / "detector_1x" / "reproduce.log").write_text(
            "reproduce.py 2026-01-01 00:01:00: $ tools/dist_train.sh # commit abc\n"
            "reproduce.py 2026-01-01 00:02:00: failed: train.py: no data\n"
        )
        found = states(suite, capsys)["detector_1x"]
        assert found == "failed: train.py: no data"
        suite.train("detector_1x", 2, [0.2], begin=1, stamp="20260101_000300")
        assert states(suite, capsys)["detector_1x"].startswith("epoch 2 of 4")

    def test_seeds_are_runs_of_their_own(self, suite, capsys):
        suite.train("detector_1x", 1, [0.1])
        suite.train("detector_1x_seed2", 1, [0.1], row="detector_1x")
        (suite.work_dirs / "detector_1x_seedling").mkdir()
        found = states(suite, capsys, "detector_1x")
        assert set(found) == {"detector_1x", "detector_1x_seed2"}

    def test_nearest_names(self, suite, capsys):
        assert suite.call("status", "detector1x", "tabel3") == 1
        error = capsys.readouterr().err
        assert "'detector1x': did you mean detector_1x" in error
        assert "'tabel3': did you mean table 3" in error
        assert error.count("\n") == 1

    @pytest.mark.parametrize(
        ("name", "rows"),
        [
            ("table3", ["detector_1x", "detector_public"]),
            ("8", ["detector_1x"]),
            ("arXiv version, table 5", ["detector_1x"]),
            ("arxiv5", ["detector_1x"]),
            ("tiny_in1k", ["tiny_in1k"]),
        ],
    )
    def test_tables(self, suite, capsys, name, rows):
        assert list(states(suite, capsys, name)) == rows

    def test_list_shows_what_a_row_needs(self, suite, capsys):
        assert suite.call("list", "detector_1x") == 0
        _, line = capsys.readouterr().out.splitlines()
        for text in ("box AP 44.8", "table 8"):
            assert text in line
        needs = re.split(r"\s{2,}", line.strip())[-4:]
        assert needs == ["tiny_in1k", "16", "8", "4 epochs"]


class TestReport:
    def test_last_test_goes_before_the_last_validation(self, suite, report_of):
        suite.train("detector_1x", 4, [0.1, 0.2, 0.3, 0.4])
        found = figures(report_of("detector_1x"), "detector_1x")
        box = found["box AP, COCO"]
        assert (box["measured"], box["from"]) == (40.0, "validation")
        assert box["difference"] == pytest.approx(-4.8)
        assert found["box AP50, COCO"]["measured"] is None
        suite.test("detector_1x", {"coco/bbox_mAP": 0.1}, stamp="20260101_120000")
        suite.test("detector_1x", {"coco/bbox_mAP": 0.401, "coco/bbox_mAP_50": 0.6})
        found = figures(report_of("detector_1x"), "detector_1x")
        assert found["box AP, COCO"]["measured"] == 40.1
        assert found["box AP, COCO"]["from"] == "test"
        assert found["box AP50, COCO"]["measured"] == 60.0

    def test_multi_scale_figures_are_of_augmented_tests(self, suite, report_of):
        suite.train("detector_1x", 4, [0.1] * 4)
        suite.test("detector_1x", {"coco/bbox_mAP": 0.4, "coco/segm_mAP": 0.3})
        found = figures(report_of("detector_1x"), "detector_1x")
        assert found["mask AP (ms), COCO"]["measured"] is None
        metrics, stamp = {"coco/segm_mAP": 0.41}, "20260103_000000"
        suite.test("detector_1x", metrics, stamp=stamp, augmented=True)
        found = figures(report_of("detector_1x"), "detector_1x")
        assert found["mask AP (ms), COCO"]["measured"] == 41.0
        assert found["box AP, COCO"]["measured"] == 40.0
        # What only the server can tell.
        assert found["box AP (ms), COCO test-dev"]["measured"] is None

    def test_mean_and_spread_of_the_seeds_that_have_ended(self, suite, report_of):
        for seed, ap in enumerate([0.44, 0.45, 0.46, 0.1]):
            name = f"detector_1x_seed{seed}" if seed else "detector_1x"
            epochs = 1 if seed == 3 else 4
            suite.train(name, epochs, [ap] * epochs, row="detector_1x")
        box = figures(report_of("detector_1x"), "detector_1x")["box AP, COCO"]
        assert (box["measured"], box["spread"], box["final"]) == (45.0, 1.0, True)
        assert list(box["runs"].values()) == [44.0, 45.0, 46.0]

    def test_what_has_not_ended_says_so(self, suite, report_of):
        suite.train("detector_1x", 2, [0.1, 0.2])
        box = figures(report_of("detector_1x"), "detector_1x")["box AP, COCO"]
        assert (box["measured"], box["final"]) == (20.0, False)
        assert box["from"] == "validation at epoch 2"

    def test_a_row_without_figures_has_measured_ones(self, suite, report_of):
        suite.test("tiny_in1k", {"accuracy/top1": 81.2, "accuracy/top5": 95.0})
        found = figures(report_of("tiny_in1k"), "tiny_in1k")
        assert found["Top-1, ImageNet-1K"]["measured"] == 81.2
        assert found["Top-1, ImageNet-1K"]["paper"] is None

    def test_broken_lines_are_counted_and_skipped(self, suite, report_of, capsys):
        folder = suite.train("detector_1x", 4, [0.1, 0.2, 0.3, 0.4])
        scalars = folder / "vis_data" / "scalars.json"
        lines = scalars.read_text().splitlines()
        lines[3] = lines[3][:20]
        lines.insert(5, "[1, 2]")
        lines.insert(7, "\0\0\0")
        scalars.write_text("\n".join(lines))
        (entry,) = report_of("detector_1x")
        assert entry["runs"][0]["notes"] == ["3 unreadable lines in its logs"]
        assert entry["figures"][0]["measured"] == 40.0
        assert "3 unreadable lines" in capsys.readouterr().out
        report = suite.work_dirs / "report" / "report.md"
        assert "3 unreadable lines" in report.read_text()

    def test_another_recipe_is_named(self, suite, report_of):
        changes = {
            "train_cfg.max_epochs": 2,
            "optim_wrapper.optimizer.lr": 1.0,
            # These say where it took place, not how.
            "model.backbone.init_cfg": dict(checkpoint="a.pth"),
            "train_dataloader.dataset.data_root": "elsewhere/",
        }
        suite.train("detector_1x", 2, [0.1, 0.2], **changes)
        (entry,) = report_of("detector_1x")
        assert entry["runs"][0]["notes"] == [
            "not as in the config: optim_wrapper.optimizer.lr, train_cfg.max_epochs"
        ]
        assert entry["runs"][0]["length"] == 2
        assert not entry["figures"][0]["final"]

    def test_resumed_runs_make_one_curve(self, suite):
        suite.train("detector_1x", 3, [0.1, 0.2, 0.3])
        # It went on from epoch 2: its third was done again.
        arguments = dict(stamp="20260101_010000", begin=2)
        suite.train("detector_1x", 4, [0.35, 0.4], **arguments)
        work_dir = WorkDir(suite.work_dirs / "detector_1x")
        steps = [line["step"] for line in work_dir.train_curve()]
        assert steps == list(range(5, 45, 5))
        curve = [(line["step"], line["coco/bbox_mAP"]) for line in work_dir.val_curve()]
        assert curve == [(1, 0.1), (2, 0.2), (3, 0.35), (4, 0.4)]

    def test_page_needs_no_other_file(self, suite, report_of):
        suite.train("detector_1x", 4, [0.1, 0.2, 0.3, 0.4])
        suite.test("detector_1x", {"coco/bbox_mAP": 0.45})
        report_of()
        folder = suite.work_dirs / "report"
        page = (folder / "report.html").read_text()
        assert set(re.findall(r'(?:src|href)="([^"]{5})', page)) == {"data:"}
        assert "http" not in page
        assert page.count("data:image/png") == 2
        names = {path.name for path in (folder / "plots").iterdir()}
        assert names == {"detector_1x.png", "differences.png"}
        assert "+0.20" in page
        text = (folder / "report.md").read_text()
        assert "| detector_1x | box AP | 44.8 | 45.00 | +0.20 | test |" in text

    def test_a_config_is_read_without_executing_it(self, suite, report_of):
        folder = suite.train("detector_1x", 4, [0.1] * 4)
        config = folder / "vis_data" / "config.py"
        config.write_text(f"import os\nos.mkdir({str(suite.root / 'made')!r})\n")
        report_of("detector_1x")
        assert not (suite.root / "made").exists()

    def test_json_has_no_times(self, suite, report_of):
        """Equal runs at other times give equal reports."""
        suite.train("detector_1x", 4, [0.4] * 4)
        assert "2026" not in json.dumps(report_of("detector_1x"))
