"""Trained weights in other hands: tools/dist_test.sh."""

import json
import pickle

import pytest


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
