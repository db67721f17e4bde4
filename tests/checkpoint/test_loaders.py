"""Checkpoints are read without executing them, training checkpoints included."""

import os
import pickle
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader

from focal_mm.checkpoint import CheckpointError, read_checkpoint
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


def contents_of(path: Path, trace: Path) -> dict[str, bytes]:
    """Files that want to be executed, or to take what memory there is."""
    torch.save(dict(state_dict=Runs(os.mkdir, str(trace))), path)
    zipped = path.read_bytes()
    torch.save(
        dict(weight=Runs(os.mkdir, str(trace))),
        path,
        _use_new_zipfile_serialization=False,
    )
    header = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,99]}}'
    return {
        "zip.pth": zipped,
        "old.pth": path.read_bytes(),
        "pickle.pth": pickle.dumps(dict(weight=Runs(os.mkdir, str(trace)))),
        "pickle.safetensors": zipped,
        "long.safetensors": (2**62).to_bytes(8, "little") + header,
        "short.safetensors": len(header).to_bytes(8, "little") + header,
    }


@pytest.mark.parametrize("by", ["path", "url"])
def test_hostile_files(tmp_path, monkeypatch, by):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "downloads"))
    trace = tmp_path / "trace"
    for name, contents in contents_of(tmp_path / "x", trace).items():
        path = tmp_path / name
        path.write_bytes(contents)
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(path.as_uri() if by == "url" else path)
        line = str(caught.value)
        assert name in line
        assert "\n" not in line
        # As PyTorch's own message does.
        assert "weights_only" not in line
    assert not trace.exists()


def test_download(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "downloads"))
    torch.save(dict(weight=torch.ones(2)), tmp_path / "a.pth")
    url = (tmp_path / "a.pth").as_uri()
    assert read_checkpoint(url)["weight"].equal(torch.ones(2))
    (tmp_path / "a.pth").unlink()
    # As often as one likes.
    assert read_checkpoint(url)["weight"].equal(torch.ones(2))


def test_checksums(tmp_path):
    path = tmp_path / "a.pth"
    torch.save(dict(weight=torch.ones(1000)), path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert not torch.load(path)["weight"].eq(1).all()
    with pytest.raises(CheckpointError, match=r"damaged .*the checksum of a/data/0"):
        read_checkpoint(path)


def test_files_without_checksums(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(dict(weight=torch.ones(1000)), tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert read_checkpoint(tmp_path / "a.pth")["weight"].eq(1).all()
