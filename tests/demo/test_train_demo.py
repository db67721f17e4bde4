from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

from demo import train_demo as demo_tool
from demo.toy.coco import CocoSpec
from demo.toy.shapes import CLASSES
from demo.train_demo import Demo, StepError

SPEC = CocoSpec(num_train=4, num_val=2)
METRICS = {"box mAP": 0.2, "box AP50": 0.5, "mask mAP": 0.2, "mask AP50": 0.4}


@pytest.fixture
def out_dir(tmp_path: Path) -> Path:
    return tmp_path / "demo"


def make(out_dir: Path, **cfg_options: object) -> Demo:
    return Demo(out_dir, SPEC, cfg_options)


def leave_checkpoint(demo: Demo, iteration: int) -> Path:
    demo.train_dir.mkdir(parents=True, exist_ok=True)
    file = demo.train_dir / f"iter_{iteration}.pth"
    file.touch()
    (demo.train_dir / "last_checkpoint").write_text(str(file))
    return file


def test_the_config_changes_nothing_of_the_model_but_the_classes() -> None:
    overlay = Config.fromfile(demo_tool.CONFIG)
    base = Config.fromfile(demo_tool.ROOT / "configs/det/mask_rcnn_focal_tiny_3x.py")
    for model in (overlay.model, base.model):
        for name in ("train_cfg", "test_cfg"):
            del model[name]
        for head in ("bbox_head", "mask_head"):
            classes = model.roi_head[head].pop("num_classes")
            assert classes == (len(CLASSES) if model is overlay.model else 80)
    assert overlay.model.to_dict() == base.model.to_dict()


def test_the_config_names_the_classes_of_the_data() -> None:
    cfg = Config.fromfile(demo_tool.CONFIG)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        assert loader.dataset.metainfo.classes == CLASSES


def test_the_data_of_another_folder_are_used_throughout(out_dir: Path) -> None:
    demo = make(out_dir)
    used = demo.cfg
    root = used.train_dataloader.dataset.data_root
    assert root == used.test_dataloader.dataset.data_root == f"{demo.data}/"
    assert used.test_evaluator.ann_file.startswith(root)
    default = Demo(demo_tool.ROOT / "work_dirs/demo", SPEC, {})
    assert default.cfg.train_dataloader.dataset.data_root == default.cfg.data_root


@pytest.mark.parametrize("processes", [1, 2])
def test_a_step_has_as_many_images_on_any_number_of_processes(
    out_dir: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(demo_tool, "num_processes", lambda: processes)
    batch_size = make(out_dir).cfg.train_dataloader.batch_size
    in_config = Config.fromfile(demo_tool.CONFIG).train_dataloader.batch_size
    assert batch_size * processes == 2 * in_config


def test_a_stopped_demo_goes_on_and_a_finished_one_starts_over(out_dir: Path) -> None:
    demo = make(out_dir)
    assert demo.prepare() == "a new demo"
    checkpoint = leave_checkpoint(demo, 10)
    with pytest.raises(KeyboardInterrupt), demo.timed("training"):
        raise KeyboardInterrupt

    again = make(out_dir)
    assert "going on" in again.prepare()
    assert checkpoint.exists()
    assert again.state.seconds["training"] > 0
    again.finish()

    once_more = make(out_dir)
    assert "is finished: starting over" in once_more.prepare()
    assert not checkpoint.exists()
    assert once_more.state.seconds == {}


def test_other_settings_start_over(out_dir: Path) -> None:
    demo = make(out_dir)
    demo.prepare()
    checkpoint = leave_checkpoint(demo, 10)
    other = make(out_dir, **{"model.backbone.drop_path_rate": 0.1})
    assert "had other settings: starting over" in other.prepare()
    assert not checkpoint.exists()


def test_a_folder_of_the_user_is_left_alone(out_dir: Path) -> None:
    thesis = out_dir / "train" / "thesis.txt"
    thesis.parent.mkdir(parents=True)
    thesis.touch()
    with pytest.raises(StepError, match="holds no demo: choose another folder"):
        make(out_dir).prepare()
    assert [file for file in out_dir.rglob("*") if file.is_file()] == [thesis]


def test_only_the_last_checkpoint_ends_the_training(out_dir: Path) -> None:
    demo = make(out_dir, **{"train_cfg.max_iters": 20})
    assert demo.checkpoint() is None
    leave_checkpoint(demo, 10)
    assert demo.checkpoint() is None
    last = leave_checkpoint(demo, 20)
    assert demo.checkpoint() == last


def test_training_resumes_where_there_is_a_checkpoint(
    out_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = make(out_dir, **{"train_cfg.max_iters": 20})
    demo.prepare()
    commands = []

    def stream(command: list[str], log: Path) -> int:
        commands.append(command)
        leave_checkpoint(demo, 10 * len(commands))
        return 0

    monkeypatch.setattr(demo_tool, "stream", stream)
    with pytest.raises(StepError, match="no final checkpoint"):
        demo.train()
    assert demo.train().name == "iter_20.pth"
    assert ["--resume" in command for command in commands] == [False, True]
    assert commands[0][:2] == ["bash", "tools/dist_train.sh"]


@pytest.mark.parametrize("failing", ["train", "test"])
def test_a_failing_step_is_one_line_that_names_step_and_log(
    out_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    failing: str,
) -> None:
    demo = make(out_dir)

    def stream(command: list[str], log: Path) -> int:
        if f"dist_{failing}" in command[1]:
            return 3
        leave_checkpoint(demo, demo.cfg.train_cfg.max_iters)
        return 0

    monkeypatch.setattr(demo_tool, "stream", stream)
    assert demo_tool.guarded(lambda: demo_tool.run(demo)) == 1
    error = capsys.readouterr().err
    step = {"train": "training", "test": "evaluation"}[failing]
    log = out_dir / f"{failing}.log"
    assert error == f"demo: {step} failed (exit code 3); log: {log}\n"
    assert not json.loads(demo.state_file.read_text())["finished"]


@pytest.mark.parametrize(("ap50", "code"), [(0.31, 0), (0.29, 1), (-1.0, 1)])
def test_the_demo_fails_if_nothing_was_learnt(
    out_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ap50: float,
    code: int,
) -> None:
    demo = make(out_dir)
    checkpoint = out_dir / "iter.pth"
    monkeypatch.setattr(demo, "train", lambda: checkpoint)
    monkeypatch.setattr(demo, "test", lambda _: METRICS | {"box AP50": ap50})
    monkeypatch.setattr(demo, "draw", lambda _: 0)
    assert demo_tool.run(demo) == code
    captured = capsys.readouterr()
    assert f"{ap50:.3f}" in captured.out
    assert ("has not learnt" in captured.err) == (code == 1)


@pytest.mark.parametrize(
    ("line", "progress"),
    [
        (
            "01/02 - mmengine - INFO - Iter(train) [ 10/200]  base_lr: 1e-04 lr: 1e-04"
            "  eta: 0:10:53  time: 3.59  loss: 4.2877  loss_cls: 1.1457\n",
            "  train  10/200  eta 0:10:53  loss 4.2877",
        ),
        (
            "01/02 - mmengine - INFO - Iter(test) [20/50]    eta: 0:00:40  time: 1.0\n",
            "  test 20/50  eta 0:00:40",
        ),
        ("01/02 - mmengine - INFO - Checkpoints will be saved.\n", None),
    ],
)
def test_progress_is_read_from_the_log(line: str, progress: str | None) -> None:
    assert demo_tool.shorten(line) == progress


def test_all_output_of_a_command_goes_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    script = "echo out; echo err >&2; exit 5"
    assert demo_tool.stream(["bash", "-c", script], log) == 5
    assert sorted(log.read_text().split()) == ["err", "out"]


@pytest.mark.slow
def test_all_steps(out_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    demo = make(out_dir, **{"train_cfg.max_iters": 1})
    assert demo_tool.run(demo) == 1
    captured = capfd.readouterr()
    assert "has not learnt" in captured.err
    assert "mask AP50" in captured.out
    pictures = sorted(demo.pictures.iterdir())
    assert len(pictures) == SPEC.num_val
    height, width = cv2.imread(os.fspath(pictures[0])).shape[:2]
    assert width > 2 * SPEC.size
    assert height > SPEC.size
    assert json.loads(demo.state_file.read_text())["finished"]
