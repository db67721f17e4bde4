"""Trained weights in other hands: mmdet's inferencer, tools/dist_test.sh."""

import json
import pickle

import numpy as np
import pytest
from mmdet.apis import DetInferencer

from demo.toy.shapes import CLASSES


def test_det_inferencer(unbroken_run, toy_config, toy_data):
    work_dir, _ = unbroken_run
    inferencer = DetInferencer(
        model=str(toy_config), weights=str(work_dir / "iter_6.pth"), device="cpu"
    )
    assert inferencer.visualizer.dataset_meta["classes"] == CLASSES
    image = np.random.default_rng(0).integers(0, 255, (150, 211, 3), dtype=np.uint8)
    paths = sorted(map(str, (toy_data / "val2017").iterdir()))[:2]
    predictions = inferencer([*paths], no_save_vis=True)["predictions"]
    predictions += inferencer(image, no_save_vis=True)["predictions"]
    assert len(predictions) == 3
    for prediction, (height, width) in zip(
        predictions, [(192, 192), (192, 192), (150, 211)], strict=True
    ):
        assert set(prediction["labels"]) <= set(range(len(CLASSES)))
        assert len(prediction["bboxes"]) == len(prediction["masks"]) > 0
        boxes = np.array(prediction["bboxes"])
        assert boxes.min() >= 0
        assert (boxes.max(axis=0) <= [width, height, width, height]).all()
        assert all(mask["size"] == [height, width] for mask in prediction["masks"])


@pytest.mark.slow
def test_two_processes_measure_what_one_does(
    unbroken_run, toy_config, run_tool, tmp_path
):
    checkpoint = unbroken_run[0] / "iter_6.pth"
    metrics = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        options = ("--work-dir", folder, "--out", folder / "p.pkl")
        options += ("--show-dir", folder / "drawn")
        output = run_tool("dist_test.sh", toy_config, checkpoint, processes, *options)
        (log,) = folder.glob("2*/2*.json")
        found = json.loads(log.read_text())
        metrics.append({key: val for key, val in found.items() if "coco" in key})
        dumped = pickle.loads((folder / "p.pkl").read_bytes())
        assert sorted(sample["img_id"] for sample in dumped) == [1, 2, 3, 4]
        assert len(list((folder / "drawn").iterdir())) == 4 // processes
        assert "draw in the first process only" in output
    assert metrics[0] == metrics[1]
    assert "coco/segm_mAP" in metrics[0]
