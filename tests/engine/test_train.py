"""The command line of training: what it does to a config, and how it says no."""

from functools import partial

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


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("train_cfg.max_iters=0", "train_cfg.max_iters must be a number from 1 on"),
        ("train_cfg.max_epochs=ten", "from 1 on, got 'ten'"),
        ("train_cfg.val_interval=-1", "train_cfg.val_interval must be"),
        ("default_hooks.logger.interval=0", "default_hooks.logger.interval must be"),
        ("default_hooks.checkpoint.interval=0", "default_hooks.checkpoint.interval"),
    ],
)
def test_runs_that_would_do_nothing(training_cfg, option, message):
    with pytest.raises(UserError, match=message):
        training_cfg("--cfg-options", option)


def test_checkpoints_may_never_be_written(training_cfg):
    training_cfg("--cfg-options", "default_hooks.checkpoint.interval=-1")


def test_the_only_checkpoint_is_not_removed_before_the_next_is_whole(training_cfg):
    kept = "default_hooks.checkpoint.max_keep_ckpts"
    cfg, (note,) = training_cfg("--cfg-options", f"{kept}=1")
    assert cfg.default_hooks.checkpoint.max_keep_ckpts == 2
    assert "max_keep_ckpts=1" in note
    assert training_cfg("--cfg-options", f"{kept}=3")[1] == []


def start_of(training_cfg, *options: str, scope: str = "mmdet"):
    """Config and notes after it is known where a run starts."""
    cfg, _ = training_cfg(*options, scope=scope)
    args = train._parser().parse_args(["minimal.py", *options])
    return cfg, train._start(cfg, args) + train._say_scratch(cfg)


def test_training_from_scratch_is_said(training_cfg, folder):
    assert any("from scratch" in note for note in start_of(training_cfg)[1])
    for options in (
        ("--cfg-options", "model.backbone.init_cfg.checkpoint=x.pth"),
        ("--cfg-options", "load_from=x.pth"),
        ("--resume", "s3://x.pth"),
    ):
        assert not start_of(training_cfg, *options)[1]
    assert not start_of(training_cfg, scope="mmpretrain")[1]


def test_resume_keeps_load_from_where_there_is_no_checkpoint(training_cfg):
    options = ("--resume", "--cfg-options", "load_from=x.pth")
    cfg, notes = start_of(training_cfg, *options)
    assert (cfg.resume, cfg.load_from) == (False, "x.pth")
    assert "no checkpoint in ./work_dirs/minimal" in notes[0]


def test_resume_of_the_config(training_cfg):
    options = ("--cfg-options", "resume=True", "load_from=s3://x.pth")
    cfg, _ = start_of(training_cfg, *options)
    assert (cfg.resume, cfg.load_from) == (True, "s3://x.pth")


def test_checkpoint_alone_means_pretrained(training_cfg):
    option = "model.backbone.init_cfg.checkpoint=x.pth"
    cfg, _ = training_cfg("--cfg-options", option)
    assert cfg.model.backbone.init_cfg == dict(type="Pretrained", checkpoint="x.pth")


def test_rank_of_old_launchers_is_taken(training_cfg):
    training_cfg("--local_rank=3")
    training_cfg("--local-rank", "3")
