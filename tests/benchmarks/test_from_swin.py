"""The comparison of starts, without its trainings."""

from __future__ import annotations

from pathlib import Path

import pytest
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from benchmarks import from_swin


def build(task: str, start: str, out: Path) -> nn.Module:
    cfg = from_swin.config_of(from_swin.TASKS[task], out, from_swin.STARTS[start])
    init_default_scope(cfg.default_scope)
    cfg.model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
    return MODELS.build(cfg.model)


@pytest.mark.parametrize("task", from_swin.TASKS)
def test_all_of_the_swin_is_the_focal_model_s_start(task: str, tmp_path: Path) -> None:
    swin, focal = (build(task, start, tmp_path) for start in ("swin", "random"))
    assert "attn.w_msa" in "".join(swin.state_dict())
    missing, _ = focal.load_state_dict(swin.state_dict(), strict=False)
    assert not missing


def test_what_is_trained_on_has_half_the_schedule_at_a_lower_rate(
    tmp_path: Path,
) -> None:
    task = from_swin.TASKS["det"]
    anew, on = (
        from_swin.config_of(task, tmp_path, from_swin.STARTS[name])
        for name in ("random", "fitted")
    )
    assert on.load_from == str(tmp_path / "fitted.pth")
    assert anew.load_from is None
    assert on.train_cfg.max_iters * 2 == anew.train_cfg.max_iters == task.iterations
    assert on.optim_wrapper.optimizer.lr < anew.optim_wrapper.optimizer.lr


def test_the_table_says_when_the_goal_is_reached(tmp_path: Path) -> None:
    curves = {
        "swin": [(0, 0.0), (100, 0.4)],
        "fitted": [(0, 0.3), (25, 0.41), (50, 0.39)],
        "random": [(0, 0.0), (100, 0.39)],
    }
    table = from_swin.summary(curves)
    columns = [list(column.cells) for column in table.columns]
    assert columns[1] == ["0", "0.3", "0"]
    assert columns[2] == ["100", "25", "never"]
    assert columns[3] == ["0.4 after 100", "0.39 after 50", "0.39 after 100"]
    picture = tmp_path / "curves.png"
    from_swin.draw(curves, "AP", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
