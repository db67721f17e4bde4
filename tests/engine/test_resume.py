"""Where a run starts, whatever state its work dir is in."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from focal_mm.checkpoint import CheckpointError
from focal_mm.engine.errors import UserError
from focal_mm.engine.resume import find_start, remove_checkpoints

STATE = dict(
    meta=dict(iter=1),
    message_hub={},
    optimizer={},
    param_schedulers=[],
    state_dict=dict(weight=torch.ones(100)),
)


@pytest.fixture(autouse=True)
def _no_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """Config of a run with three checkpoints."""
    for age, number in enumerate((6, 9, 12)):
        path = tmp_path / f"iter_{number}.pth"
        torch.save(STATE, path)
        os.utime(path, (age, age))
    (tmp_path / "best_iter_30.pth").touch()
    (tmp_path / ".iter_15.77.partial.pth").touch()
    (tmp_path / "last_checkpoint").write_text("/moved/since/iter_12.pth")
    return Config(dict(work_dir=str(tmp_path), param_scheduler=[dict(type="LR")]))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:700])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    # The numbers are 1.0: only they have these bytes.
    data[data.index(b"\x00\x00\x80?" * 8)] ^= 1
    path.write_bytes(data)


def without(*keys: str) -> Callable[[Path], None]:
    state = {key: value for key, value in STATE.items() if key not in keys}
    return lambda path: torch.save(state, path)


def with_nan(path: Path) -> None:
    torch.save(STATE | dict(state_dict=dict(weight=torch.tensor([torch.nan]))), path)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "damaged"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (flip_a_bit, "the checksum of"),
        (without("optimizer"), "it holds no optimizer"),
        (without("param_schedulers"), "it holds no param_schedulers"),
        (without("meta", "message_hub", "optimizer"), "no meta, message_hub, opt"),
        (with_nan, "hold NaN"),
    ],
)
def test_newest_whole_checkpoint_is_used_and_damaged_ones_are_named(
    cfg, tmp_path, damage, reason
):
    damage(tmp_path / "iter_12.pth")
    path, (passed_over, used) = find_start(cfg, "auto", overwrite=False)
    assert path == str(tmp_path / "iter_9.pth")
    assert "iter_12.pth" in passed_over
    assert reason in passed_over
    assert path in used

    with pytest.raises(CheckpointError, match=reason):
        find_start(cfg, str(tmp_path / "iter_12.pth"), overwrite=False)


@pytest.mark.parametrize("resume", ["auto", ""])
@pytest.mark.parametrize("last", [None, "", "/x/iter_12.pth", "/x/gone.pth"])
def test_whatever_last_checkpoint_says(cfg, tmp_path, resume, last):
    (tmp_path / "last_checkpoint").unlink()
    if last is not None:
        (tmp_path / "last_checkpoint").write_text(last)
    path, _ = find_start(cfg, resume, overwrite=False)
    assert path == str(tmp_path / "iter_12.pth")


def test_last_checkpoint_goes_before_a_newer_one(cfg, tmp_path):
    (tmp_path / "last_checkpoint").write_text("iter_9.pth")
    path, _ = find_start(cfg, "auto", overwrite=False)
    assert path == str(tmp_path / "iter_9.pth")


def test_damaged_checkpoints_alone_are_an_error(cfg, tmp_path):
    before = sorted(tmp_path.iterdir())
    for path in tmp_path.glob("iter_*.pth"):
        truncate(path)
    with pytest.raises(UserError, match=r"no checkpoint is whole: .*iter_12.*iter_6"):
        find_start(cfg, "auto", overwrite=False)
    assert sorted(tmp_path.iterdir()) == before


def test_starting_anew_over_checkpoints_must_be_asked_for(cfg, tmp_path):
    with pytest.raises(UserError, match=r"iter_12\.pth.* --resume, .* --overwrite"):
        find_start(cfg, None, overwrite=False)
    assert find_start(cfg, None, overwrite=True) == (None, [])
    remove_checkpoints(cfg)
    assert {path.name for path in tmp_path.iterdir()} == {
        "best_iter_30.pth",
        ".iter_15.77.partial.pth",
    }
    assert find_start(cfg, None, overwrite=False) == (None, [])


def test_weights_without_a_scheduler_fit_a_run_without(cfg, tmp_path):
    without("param_schedulers")(tmp_path / "iter_12.pth")
    cfg.param_scheduler = None
    assert find_start(cfg, "auto", False)[0] == str(tmp_path / "iter_12.pth")


def test_checkpoints_in_a_folder_of_their_own(cfg, tmp_path):
    hook = dict(checkpoint=dict(out_dir=str(tmp_path)))
    other = Config(dict(work_dir=f"elsewhere/{tmp_path.name}", default_hooks=hook))
    assert find_start(other, "auto", False)[0] is None
    elsewhere = tmp_path / tmp_path.name
    elsewhere.mkdir()
    (tmp_path / "iter_6.pth").rename(elsewhere / "iter_6.pth")
    assert find_start(other, "auto", False)[0] == str(elsewhere / "iter_6.pth")


def test_torchruns_restart_resumes_by_itself(cfg, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    for arguments in ((None, False), (None, True), ("s3://first.pth", False)):
        assert find_start(cfg, *arguments)[0] == str(tmp_path / "iter_12.pth")
    remove_checkpoints(cfg)
    assert find_start(cfg, "s3://first.pth", False)[0] == "s3://first.pth"
    assert find_start(cfg, None, False)[0] is None
