"""Runs and rehearsals of small models, up to their first step."""

from pathlib import Path

import pytest

from focal_mm.engine import test, train

FEW = "train_cfg.max_iters=1"


@pytest.fixture
def run(toy_model, tmp_path, monkeypatch, capsys):
    """Runs a command line on the toy model of mmdet; returns code, output and error."""
    monkeypatch.chdir(tmp_path)
    toy = toy_model("mmdet")

    def run(program, *arguments: str, options: tuple[str, ...] = ()):
        command = [str(toy.config), *arguments]
        if options:
            command += ["--cfg-options", *options]
        code = program.main(command)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_a_rehearsal_leaves_nothing_behind(run, toy_model, tmp_path):
    code, out, err = run(train, "--check")
    assert (code, err) == (0, "")
    assert out == "arguments, config, model, data and checkpoints are in order\n"
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_of_testing_reads_the_checkpoint(run, toy_model, tmp_path):
    bad = tmp_path / "bad.pth"
    bad.write_bytes(toy_model("mmdet").checkpoint.read_bytes()[:1000])
    options = ("test_evaluator.type=CocoMetric", "test_evaluator.metric=bbox")
    toy = toy_model("mmdet")
    ann_file = f"test_evaluator.ann_file={toy.config.parent / 'coco.json'}"
    assert (
        run(test, str(toy.checkpoint), "--check", options=(*options, ann_file))[0] == 0
    )
    code, out, err = run(test, str(bad), "--check", options=(*options, ann_file))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "bad.pth" in err


def test_the_console_shows_a_run_from_its_start(run, tmp_path):
    code, out, err = run(train, options=(FEW,))
    assert (code, err) == (0, "")
    for part in ("System environment", "Config:", "Checkpoints will be saved"):
        assert part in out


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("optim_wrapper.optimizer.type=AdamX", "optim_wrapper"),
        ("optim_wrapper.optimizer.lr=-1.0", "optim_wrapper.optimizer"),
        ("optim_wrapper.clip_gard.max_norm=1", "optim_wrapper"),
        ("default_hooks.logger.intervall=10", "default_hooks.logger"),
        ("train_dataloader.sampler.type=NoSampler", "train_dataloader.sampler"),
        ("train_dataloader.dataset.pipeline.1.with_box=1", "dataset.pipeline.1"),
        ("train_dataloader.dataset.pipeline.2.scale=wide", "dataset.pipeline.2"),
        ("visualizer.type=NoVisualizer", "visualizer"),
    ],
)
def test_before_the_first_step_an_error_is_one_line(run, tmp_path, option, key):
    code, out, err = run(train, options=(option,))
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert f"{key}: " in err
    (log,) = Path("work_dirs").rglob("*.log")
    assert "Traceback" in log.read_text()
    assert str(log) in err


def test_the_traceback_is_shown_on_demand(run):
    option = "optim_wrapper.optimizer.type=AdamX"
    code, _, err = run(train, "--traceback", options=(option,))
    assert code == 1
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("train.py: optim_wrapper: ")
