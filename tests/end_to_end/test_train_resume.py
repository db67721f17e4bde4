"""Two processes train, stop and resume as if nothing had happened."""

import json
from pathlib import Path

from mmengine.runner.checkpoint import find_latest_checkpoint


def losses_of(work_dir: Path) -> dict[int, dict[str, float]]:
    """All losses by iteration, as the runs in a work dir logged them."""
    losses = {}
    for log in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in log.read_text().splitlines():
            scalars = json.loads(line)
            assert scalars["step"] not in losses, "an iteration was done twice"
            losses[scalars["step"]] = {
                key: value for key, value in scalars.items() if "loss" in key
            }
    return losses


def test_resumed_run_equals_an_unbroken_one(
    unbroken_run, toy_config, run_tool, tmp_path
):
    unbroken_dir, output = unbroken_run
    assert "2 CPU processes" in output
    assert "joined by gloo" in output
    unbroken = losses_of(unbroken_dir)
    assert list(unbroken) == [1, 2, 3, 4, 5, 6]
    assert len({losses["loss"] for losses in unbroken.values()}) == 6

    arguments = ("dist_train.sh", toy_config, 2, "--work-dir", tmp_path)
    run_tool(*arguments, "--cfg-options", "train_cfg.max_iters=3")
    assert list(losses_of(tmp_path)) == [1, 2, 3]
    assert Path(find_latest_checkpoint(str(tmp_path))).name == "iter_3.pth"

    output = run_tool(*arguments, "--resume")
    assert "resumed epoch: 0, iter: 3" in output
    # The same machine computes the same: not even the last bit may differ.
    assert losses_of(tmp_path) == unbroken
