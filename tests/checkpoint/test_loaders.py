"""Checkpoints are read without executing them, training checkpoints included."""

import os
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader

from focal_mm.checkpoint import CheckpointError
from focal_mm.checkpoint.read import use_safe_loaders


@pytest.fixture(autouse=True)
def _safe_loaders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
    use_safe_loaders()


class Runs:
    """Pickled as a call."""

    def __init__(self, function, *args) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call


def load(contents: dict, path: Path) -> dict:
    torch.save(contents, path)
    return CheckpointLoader.load_checkpoint(str(path), "cpu", logger="silent")


def test_training_checkpoint(tmp_path):
    hub = MessageHub("loaders")
    hub.update_scalar("train/loss", 1.5)
    loaded = load(dict(state_dict={}, message_hub=hub.state_dict()), tmp_path / "a.pth")
    history = loaded["message_hub"]["log_scalars"]["train/loss"]
    assert history.mean() == 1.5


def test_code_is_not_run(tmp_path):
    trace = tmp_path / "trace"
    with pytest.raises(CheckpointError):
        load(dict(state_dict=Runs(os.mkdir, str(trace))), tmp_path / "a.pth")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("owner", "name"), [(HistoryBuffer, "__init__"), (torch.Tensor, "numpy")]
)
def test_getattr_gives_nothing_but_methods_of_histories(tmp_path, owner, name):
    with pytest.raises(CheckpointError):
        load(dict(state_dict=Runs(getattr, owner, name)), tmp_path / "a.pth")
