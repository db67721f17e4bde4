"""One line on standard error, an exit code, no traceback."""

import os
import signal
from pathlib import Path

import pytest

from focal_mm.checkpoint import CheckpointError
from focal_mm.engine import test, train
from focal_mm.engine.errors import LostError, StoppedError, UserError, run_guarded

CONFIG = str(Path(__file__).parents[2] / "configs/det/mask_rcnn_focal_tiny_3x.py")


def fail(error: Exception) -> None:
    raise error


def stop(number: int) -> None:
    os.kill(os.getpid(), number)
    signal.pause()


@pytest.mark.parametrize(
    ("action", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 3, 3, ""),
        (lambda: fail(UserError("wrong")), 1, "tool: wrong\n"),
        (lambda: fail(CheckpointError("bad")), 1, "tool: bad\n"),
        (lambda: fail(StoppedError("--resume")), 143, "tool: --resume\n"),
        (
            lambda: fail(LostError("alone")),
            75,
            "tool: alone\n",
        ),
        (lambda: stop(signal.SIGINT), 130, "tool: stopped by the user\n"),
        (lambda: stop(signal.SIGTERM), 130, "tool: stopped by the user\n"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_guard(capsys, monkeypatch, action, code, line):
    monkeypatch.setattr("focal_mm.engine.errors.LOST_PATIENCE", 0)
    before = signal.getsignal(signal.SIGTERM)
    assert run_guarded("tool", action) == code
    assert capsys.readouterr().err == line
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (train.main, ["gone.py"], "train.py: there is no config file gone.py"),
        (train.main, ["bad.py"], "bad.py is not a readable config: SyntaxError"),
        (train.main, ["empty.py"], "empty.py is not a config to run: it has no"),
        (test.main, [CONFIG, "gone.pth"], "test.py: checkpoint: there is no"),
        (
            train.main,
            [CONFIG, "--cfg-options", "model.backbone.arch.depth=1"],
            "--cfg-options do not fit",
        ),
        (train.main, [CONFIG], "train.py: data not found: "),
    ],
)
def test_user_errors(folder, capsys, program, arguments, message):
    (folder / "bad.py").write_text("model = dict(")
    (folder / "empty.py").write_text("")
    assert program(arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert {path.name for path in folder.iterdir()} == {"bad.py", "empty.py"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cfg-options", "a.b"], "['a.b'] are not of the form key.subkey=value"),
        (["--cfg-options", "a=(1,2"], "Imbalanced brackets"),
        (["--launcher", "ssh"], "invalid choice: 'ssh'"),
        (["--work"], "--work-dir: expected one argument"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_unreadable_options(capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        train.main([CONFIG, *options])
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("rank", ["LOCAL_RANK", "SLURM_LOCALID"])
@pytest.mark.usefixtures("folder")
def test_other_processes_let_the_first_speak(capsys, monkeypatch, rank):
    """On a machine whose first process fails, a launcher ends them while they wait."""

    def be_ended(seconds: float) -> None:
        raise SystemExit(143)

    monkeypatch.setenv(rank, "1")
    monkeypatch.setattr("time.sleep", be_ended)
    for arguments in (["gone.py"], ["--gone"]):
        with pytest.raises(SystemExit, match="143"):
            train.main(arguments)
    assert capsys.readouterr().err == ""

    monkeypatch.setattr("time.sleep", lambda seconds: None)
    assert train.main(["gone.py"]) == 1
    assert "there is no config file gone.py" in capsys.readouterr().err
