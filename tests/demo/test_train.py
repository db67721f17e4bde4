from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

from demo import train as demo
from demo.toy.formats import CocoSpec
from demo.toy.shapes import CLASSES
from focal_mm.engine.errors import UserError, run_guarded

SPEC = CocoSpec(num_train=4, num_val=2)
LAST = Config.fromfile(demo.CONFIG).train_cfg.max_iters


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "demo"


class Tools:
    """Stands for dist_train.sh and dist_test.sh; the first training is stopped."""

    def __init__(self) -> None:
        self.box_ap50 = 0.5
        self.commands: list[str] = []

    def __call__(self, script: str, config: Path, *words: object) -> None:
        self.commands.append(script)
        if script == "dist_train.sh":
            processes, _, folder, resume = words
            assert resume == "--resume"
            started = folder.exists()
            folder.mkdir(exist_ok=True)
            reached = LAST if started else LAST // 2
            (folder / "last_checkpoint").write_text(f"/x/iter_{reached}.pth")
            if not started:
                raise KeyboardInterrupt
        else:
            checkpoint, processes, _, folder = words
            assert checkpoint == config.parent / f"train/iter_{LAST}.pth"
            file = folder / "20260102_030405" / "20260102_030405.json"
            file.parent.mkdir(parents=True)
            names = ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50")
            metrics = {f"coco/{name}": 0.2 for name in names}
            file.write_text(json.dumps(metrics | {"coco/bbox_mAP_50": self.box_ap50}))
        assert processes == demo.num_processes()
        assert config == folder.parent / demo.CONFIG.name


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Tools:
    tools = Tools()
    monkeypatch.setattr(demo, "run_tool", tools)
    monkeypatch.setattr("demo.pictures.draw_predictions", lambda *_: None)
    return tools


def run(out: Path) -> int:
    return run_guarded("demo", lambda: demo.run(out, SPEC), "stopped")


def test_the_config_changes_nothing_of_the_model_but_the_classes() -> None:
    changed = Config.fromfile(demo.CONFIG)
    base = Config.fromfile(demo.ROOT / "configs/det/mask_rcnn_focal_tiny_3x.py")
    for model in (changed.model, base.model):
        for name in ("train_cfg", "test_cfg"):
            del model[name]
        for head in ("bbox_head", "mask_head"):
            classes = model.roi_head[head].pop("num_classes")
            assert classes == (len(CLASSES) if model is changed.model else 80)
    assert changed.model.to_dict() == base.model.to_dict()
    for loader in (changed.train_dataloader, changed.test_dataloader):
        assert loader.dataset.metainfo.classes == CLASSES


@pytest.mark.parametrize("processes", [1, 2])
def test_the_written_config_fits_folder_and_machine(
    out: Path, monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    monkeypatch.setattr(demo, "num_processes", lambda: processes)
    cfg = demo.config_for(out)
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        assert loader.dataset.data_root == f"{out}/data/"
    assert cfg.test_evaluator.ann_file.startswith(f"{out}/data/")
    in_config = Config.fromfile(demo.CONFIG).train_dataloader.batch_size
    assert cfg.train_dataloader.batch_size * processes == 2 * in_config


def test_a_stopped_demo_goes_on_and_a_finished_one_is_kept(
    out: Path, tools: Tools, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(out) == 130
    assert run(out) == 0
    commands = ["dist_train.sh", "dist_train.sh", "dist_test.sh"]
    assert tools.commands == commands
    assert run(out) == 0
    assert tools.commands == commands
    assert "to start over, remove" in capsys.readouterr().out


@pytest.mark.parametrize(("ap50", "code"), [(0.31, 0), (0.29, 1), (-1.0, 1)])
def test_the_demo_fails_if_nothing_was_learnt(
    out: Path,
    tools: Tools,
    capsys: pytest.CaptureFixture[str],
    ap50: float,
    code: int,
) -> None:
    tools.box_ap50 = ap50
    assert run(out) == 130
    assert run(out) == code
    captured = capsys.readouterr()
    assert f"{ap50:.3f}" in captured.out
    assert ("has not learnt" in captured.err) == (code == 1)


@pytest.fixture
def write_tool(out: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes a script ``tools/x.sh`` for ``run_tool``."""

    def write(text: str) -> None:
        script = out / "tools" / "x.sh"
        script.parent.mkdir(parents=True)
        script.write_text(f"#!/bin/sh\n{text}\n")
        script.chmod(0o755)

    monkeypatch.setattr(demo, "ROOT", out)
    monkeypatch.delenv("PORT", raising=False)
    return write


def test_a_tool_gets_its_words_this_python_and_a_free_port(
    write_tool: Callable, capfd: pytest.CaptureFixture[str]
) -> None:
    write_tool('echo "$PYTHON" "$PORT" "$@"')
    demo.run_tool("x.sh", Path("config.py"), 2, "--resume")
    python, port, *words = capfd.readouterr().out.split("\n")[1].split()
    assert python == sys.executable
    assert 0 < int(port) < 2**16
    assert words == ["config.py", "2", "--resume"]


def test_a_failing_tool_is_named(write_tool: Callable) -> None:
    write_tool("exit 3")
    with pytest.raises(UserError, match=r"tools/x.sh failed \(exit code 3\)"):
        demo.run_tool("x.sh")


def test_a_stop_stops_the_tool(out: Path, write_tool: Callable) -> None:
    write_tool(
        "trap 'touch stopped; exit' TERM; touch started; while :; do sleep 0.05; done"
    )
    main = threading.main_thread().ident

    def stop() -> None:
        while not (out / "started").exists():
            time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        demo.run_tool("x.sh")
    assert (out / "stopped").exists()


@pytest.mark.slow
def test_all_steps(
    out: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    short = tmp_path / "short.py"
    short.write_text(f"_base_ = '{demo.CONFIG}'\ntrain_cfg = dict(max_iters=1)\n")
    monkeypatch.setattr(demo, "CONFIG", short)
    assert run(out) == 1
    captured = capfd.readouterr()
    assert "has not learnt" in captured.err
    assert "segm_mAP_50" in captured.out
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == SPEC.num_val
    for picture in pictures:
        image = cv2.imread(os.fspath(picture))
        assert image.shape == (3 * SPEC.size, 2 * 3 * SPEC.size, 3)
