"""The command line of training: what it does to a config, and how it says no."""

from functools import partial
from pathlib import Path

import pytest

from focal_mm.engine import train
from focal_mm.engine.errors import UserError


@pytest.fixture
def training_cfg(adapted):
    """Config and notes of a ``train.py`` command line."""
    return partial(adapted, train)


def test_work_dir(training_cfg):
    assert training_cfg()[0].work_dir == "./work_dirs/minimal"
    assert training_cfg("--cfg-options", "work_dir=b")[0].work_dir == "b"
    options = ("--work-dir", "a", "--cfg-options", "work_dir=b")
    assert training_cfg(*options)[0].work_dir == "a"


def test_cfg_options(training_cfg):
    cfg, _ = training_cfg(
        "--cfg-options", "model.x=[1,(2,3)]", "pipeline.1.type=Other", "load_from=None"
    )
    assert cfg.model.x == [1, (2, 3)]
    assert cfg.pipeline[1].type == "Other"
    assert cfg.load_from is None


def test_amp(training_cfg):
    cfg, _ = training_cfg("--amp")
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    assert cfg.optim_wrapper.loss_scale == "dynamic"
    with pytest.raises(UserError, match="ApexOptimWrapper"):
        training_cfg("--amp", "--cfg-options", "optim_wrapper.type=ApexOptimWrapper")


def test_auto_scale_lr(training_cfg):
    assert not training_cfg()[0].auto_scale_lr.enable
    assert training_cfg("--auto-scale-lr")[0].auto_scale_lr.enable
    with pytest.raises(UserError, match="base_batch_size"):
        training_cfg("--auto-scale-lr", "--cfg-options", "auto_scale_lr=None")


def test_resume_from_a_file(training_cfg):
    cfg, notes = training_cfg("--resume", "x.pth")
    assert (cfg.resume, cfg.load_from, notes) == (True, "x.pth", [])


def test_resume_from_the_latest(training_cfg, folder):
    work = folder / "work"
    work.mkdir()
    (work / "epoch_2.pth").touch()
    (work / "last_checkpoint").write_text(str(work / "epoch_2.pth"))
    cfg, _ = training_cfg("--resume", "--work-dir", "work")
    assert cfg.resume
    assert Path(cfg.load_from).samefile(work / "epoch_2.pth")

    moved = work.rename(folder / "moved")
    cfg, _ = training_cfg("--resume", "--work-dir", "moved")
    assert Path(cfg.load_from).samefile(moved / "epoch_2.pth")


def test_resume_with_nothing_to_resume_keeps_load_from(training_cfg):
    cfg, notes = training_cfg("--resume", "--cfg-options", "load_from=x.pth")
    assert (cfg.resume, cfg.load_from) == (False, "x.pth")
    assert "no checkpoint in ./work_dirs/minimal" in notes[0]


def test_training_from_scratch_is_said(training_cfg):
    assert any("from scratch" in note for note in training_cfg()[1])
    for options in (
        ("--cfg-options", "model.backbone.init_cfg.checkpoint=x.pth"),
        ("--cfg-options", "load_from=x.pth"),
        ("--resume", "x.pth"),
    ):
        assert not training_cfg(*options)[1]
    assert not training_cfg(scope="mmpretrain")[1]


def test_checkpoint_alone_means_pretrained(training_cfg):
    option = "model.backbone.init_cfg.checkpoint=x.pth"
    cfg, _ = training_cfg("--cfg-options", option)
    assert cfg.model.backbone.init_cfg == dict(type="Pretrained", checkpoint="x.pth")


def test_rank_of_old_launchers_is_taken(training_cfg):
    training_cfg("--local_rank=3")
    training_cfg("--local-rank", "3")
