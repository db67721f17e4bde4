"""The files for COCO's server."""

import json
import zipfile

import pytest

pytestmark = pytest.mark.usefixtures("scripts")
NAME = "detections_test-dev2017_detector_1x_results"


def test_predictions_become_what_the_server_takes(suite, capsys):
    suite.train("detector_1x", 4, [0.1] * 4)
    assert suite.call("test-dev", "detector_1x", "--gpus", 2) == 0
    (line,) = (suite.root / "calls.txt").read_text().splitlines()
    for text in (
        # The row's figure on test-dev is a multi-scale one.
        " --tta ",
        "work_dirs/detector_1x/epoch_4.pth 2 --work-dir work_dirs/detector_1x/test-dev",
        "test_evaluator.ann_file=data/annotations/image_info_test-dev2017.json",
        "test_evaluator.format_only=True",
    ):
        assert text in line
    printed = capsys.readouterr().out
    keys = {"bbox": "bbox", "segm": "segmentation"}
    for kind, key in keys.items():
        path = suite.work_dirs / "detector_1x" / "test-dev" / kind / f"{NAME}.zip"
        assert f"for the server: {path}" in printed
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == [f"{NAME}.json"]
            (prediction,) = json.loads(archive.read(f"{NAME}.json"))
        # Beside a mask COCO's code would measure the box.
        assert set(prediction) == {"image_id", "category_id", "score", key}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("detector_1x", "detector_1x is not trained yet: not started"),
        ("tiny_in1k", "tiny_in1k is no row of COCO"),
    ],
)
def test_what_cannot_be_sent(suite, capsys, row, message):
    suite.train("tiny_in1k", 4, [0.1] * 4)
    assert suite.call("test-dev", row) == 1
    assert message in capsys.readouterr().err


def test_a_failed_test_is_named(suite, capsys):
    suite.train("detector_1x", 4, [0.1] * 4)
    folder = suite.work_dirs / "detector_1x" / "test-dev"
    folder.mkdir()
    (folder / "fail-test").touch()
    assert suite.call("test-dev", "detector_1x", "--gpus", 2) == 1
    assert "failed: ValueError: it is broken" in capsys.readouterr().err
