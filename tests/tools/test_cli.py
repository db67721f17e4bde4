"""The command lines: what they do to a config, and how they say no."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

from focal_mm.det import DetMaskTTAModel
from focal_mm.engine import cli, main
from focal_mm.engine.errors import UserError

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"
CONFIG = str(ROOT / "configs" / "det" / "mask_rcnn_focal_tiny_3x.py")

MINIMAL = """
model = dict(type="Model", backbone=dict(type="Backbone"))
default_scope = "{scope}"
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=1.0))
auto_scale_lr = dict(enable=False, base_batch_size=16)
default_hooks = dict(visualization=dict(type="VisualizationHook"))
visualizer = dict(type="Visualizer")
pipeline = [dict(type="LoadImageFromFile"), dict(type="Pack")]
test_dataloader = dict(
    dataset=dict(type="Repeat", dataset=dict(type="Data", pipeline=pipeline))
)
test_evaluator = dict(type="Metric")
"""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory, and no rank of a launcher around this test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCAL_RANK", "0")
    return tmp_path


@pytest.fixture
def training_cfg(folder):
    """Config and notes of a ``train.py`` command line."""

    def parse(*options: str, scope: str = "mmdet") -> tuple[Config, list[str]]:
        (folder / "minimal.py").write_text(MINIMAL.format(scope=scope))
        args = cli.train_parser().parse_args(["minimal.py", *options])
        cfg = cli.load_config(args)
        return cfg, cli.apply_train_args(cfg, args)

    return parse


@pytest.fixture
def testing_cfg(folder):
    """Config of a ``test.py`` command line."""

    def parse(*options: str, scope: str = "mmdet") -> Config:
        (folder / "minimal.py").write_text(MINIMAL.format(scope=scope))
        args = cli.test_parser().parse_args(["minimal.py", "model.pth", *options])
        cfg = cli.load_config(args)
        cli.apply_test_args(cfg, args)
        return cfg

    return parse


class TestTrain:
    def test_work_dir(self, training_cfg):
        assert training_cfg()[0].work_dir == "./work_dirs/minimal"
        assert training_cfg("--cfg-options", "work_dir=b")[0].work_dir == "b"
        options = ("--work-dir", "a", "--cfg-options", "work_dir=b")
        assert training_cfg(*options)[0].work_dir == "a"

    def test_cfg_options(self, training_cfg):
        cfg, _ = training_cfg(
            "--cfg-options", "model.x=[1,(2,3)]", "pipeline.1.type=Other", "n=None"
        )
        assert cfg.model.x == [1, (2, 3)]
        assert cfg.pipeline[1].type == "Other"
        assert cfg.n is None

    def test_amp(self, training_cfg):
        cfg, _ = training_cfg("--amp")
        assert cfg.optim_wrapper.type == "AmpOptimWrapper"
        assert cfg.optim_wrapper.loss_scale == "dynamic"
        with pytest.raises(UserError, match="ApexOptimWrapper"):
            training_cfg(
                "--amp", "--cfg-options", "optim_wrapper.type=ApexOptimWrapper"
            )

    def test_auto_scale_lr(self, training_cfg):
        assert not training_cfg()[0].auto_scale_lr.enable
        assert training_cfg("--auto-scale-lr")[0].auto_scale_lr.enable
        with pytest.raises(UserError, match="base_batch_size"):
            training_cfg("--auto-scale-lr", "--cfg-options", "auto_scale_lr=None")

    def test_resume_from_a_file(self, training_cfg):
        cfg, notes = training_cfg("--resume", "x.pth")
        assert (cfg.resume, cfg.load_from, notes) == (True, "x.pth", [])

    def test_resume_from_the_latest(self, training_cfg, folder):
        work = folder / "work"
        work.mkdir()
        (work / "epoch_2.pth").touch()
        (work / "last_checkpoint").write_text(str(work / "epoch_2.pth"))
        cfg, _ = training_cfg("--resume", "--work-dir", "work")
        assert (cfg.resume, cfg.load_from) == (True, str(work / "epoch_2.pth"))

        moved = work.rename(folder / "moved")
        cfg, _ = training_cfg("--resume", "--work-dir", "moved")
        assert Path(cfg.load_from).samefile(moved / "epoch_2.pth")

    def test_resume_with_nothing_to_resume_keeps_load_from(self, training_cfg):
        cfg, notes = training_cfg("--resume", "--cfg-options", "load_from=x.pth")
        assert (cfg.resume, cfg.load_from) == (False, "x.pth")
        assert "no checkpoint in ./work_dirs/minimal" in notes[0]

    def test_training_from_scratch_is_said(self, training_cfg):
        assert any("from scratch" in note for note in training_cfg()[1])
        for options in (
            ("--cfg-options", "model.backbone.init_cfg.checkpoint=x.pth"),
            ("--cfg-options", "load_from=x.pth"),
            ("--resume", "x.pth"),
        ):
            assert not training_cfg(*options)[1]
        assert not training_cfg(scope="mmpretrain")[1]

    def test_checkpoint_alone_means_pretrained(self, training_cfg):
        option = "model.backbone.init_cfg.checkpoint=x.pth"
        cfg, _ = training_cfg("--cfg-options", option)
        assert cfg.model.backbone.init_cfg == dict(
            type="Pretrained", checkpoint="x.pth"
        )

    @pytest.mark.parametrize("spelling", ["--local_rank=3", "--local-rank=3"])
    def test_local_rank_of_old_launchers(self, training_cfg, monkeypatch, spelling):
        monkeypatch.delenv("LOCAL_RANK")
        training_cfg(spelling, "--launcher", "pytorch")
        assert os.environ.pop("LOCAL_RANK") == "3"


class TestTest:
    def test_checkpoint(self, testing_cfg):
        assert testing_cfg().load_from == "model.pth"

    @pytest.mark.parametrize(
        ("scope", "hook"),
        [
            ("mmdet", dict(draw=True, test_out_dir="shown")),
            ("mmseg", dict(draw=True)),
            ("mmpretrain", dict(enable=True, interval=1, out_dir="shown")),
        ],
    )
    def test_show_dir(self, testing_cfg, scope, hook):
        cfg = testing_cfg("--show-dir", "shown", scope=scope)
        found = dict(cfg.default_hooks.visualization)
        assert found == dict(type="VisualizationHook", **hook)
        assert cfg.visualizer.get("save_dir") == ("shown" if scope == "mmseg" else None)

    def test_show(self, testing_cfg):
        hook = testing_cfg("--show", "--wait-time", "5").default_hooks.visualization
        assert (hook.show, hook.wait_time) == (True, 5)

    def test_visualization_hook_missing(self, testing_cfg):
        with pytest.raises(UserError, match=r"default_hooks\.visualization"):
            testing_cfg("--show", "--cfg-options", "default_hooks.visualization=None")

    @pytest.mark.parametrize(
        ("scope", "metric"),
        [("mmdet", "DumpDetResults"), ("mmseg", "DumpResults")],
    )
    def test_out(self, testing_cfg, scope, metric):
        dump = dict(type=metric, out_file_path="p.pkl")
        assert testing_cfg("--out", "p.pkl", scope=scope).test_evaluator == [
            dict(type="Metric"),
            dump,
        ]
        several = "test_evaluator.metrics=[]"
        cfg = testing_cfg("--out", "p.pkl", "--cfg-options", several, scope=scope)
        assert cfg.test_evaluator.metrics == [dump]

    def test_out_as_a_folder(self, testing_cfg):
        evaluator = testing_cfg("--out", "maps", scope="mmseg").test_evaluator
        assert evaluator == dict(type="Metric", output_dir="maps", keep_results=True)
        with pytest.raises(UserError, match=r"--out must end with \.pkl"):
            testing_cfg("--out", "maps", scope="mmdet")

    @pytest.mark.parametrize(
        ("scope", "model"),
        [("mmdet", "DetTTAModel"), ("mmpretrain", "mmpretrain.AverageClsScoreTTA")],
    )
    def test_tta_default_is_a_flip(self, testing_cfg, scope, model):
        cfg = testing_cfg("--tta", scope=scope)
        assert cfg.model.type == model
        assert cfg.model.module.type == "Model"
        load, augment = cfg.test_dataloader.dataset.dataset.pipeline
        assert load.type == "LoadImageFromFile"
        assert [flip.prob for flip in augment.transforms[0]] == [1, 0]

    def test_tta_of_the_config(self, testing_cfg):
        options = ("tta_model.type=Mine", "tta_pipeline=[]")
        cfg = testing_cfg("--tta", "--cfg-options", *options, scope="mmseg")
        assert (cfg.model.type, cfg.model.module.type) == ("Mine", "Model")
        assert cfg.test_dataloader.dataset.dataset.pipeline == []
        with pytest.raises(UserError, match="needs tta_model"):
            testing_cfg("--tta", scope="mmseg")

    def test_tta_of_what_a_run_with_tta_left(self, testing_cfg, folder):
        cfg = testing_cfg("--tta")
        cfg.dump(folder / "left.py")
        args = cli.test_parser().parse_args(["left.py", "model.pth", "--tta"])
        again = cli.load_config(args)
        cli.apply_test_args(again, args)
        assert again.model == cfg.model
        assert again.test_dataloader == cfg.test_dataloader

    def test_tta_of_masks(self, testing_cfg):
        mask_head = "model.roi_head.mask_head.type=Head"
        cfg = testing_cfg("--tta", "--cfg-options", mask_head)
        # As the runner finds it, whatever the config imports.
        assert MODELS.get(cfg.model.type) is DetMaskTTAModel
        cfg = testing_cfg("--tta", "--cfg-options", mask_head, "tta_model.type=Mine")
        assert cfg.model.type == "Mine"


class TestErrors:
    """One line on standard error, an exit code, no traceback."""

    @pytest.mark.parametrize(
        ("program", "arguments", "message"),
        [
            (main.train, ["gone.py"], "train.py: there is no config file gone.py"),
            (main.train, ["bad.py"], "bad.py is not a readable config: SyntaxError"),
            (main.train, ["empty.py"], "empty.py is not a config to run: it has no"),
            (main.test, [CONFIG, "gone.pth"], "test.py: checkpoint: there is no"),
            (
                main.train,
                [CONFIG, "--cfg-options", "model.backbone.arch.depth=1"],
                "--cfg-options do not fit",
            ),
            (main.train, [CONFIG], "train.py: data not found: "),
        ],
    )
    def test_user_errors(self, folder, capsys, program, arguments, message):
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
            (["--cfg-options", "a.b"], "'a.b' is not of the form key.subkey=value"),
            (["--cfg-options", "a=(1,2"], "Imbalanced brackets"),
            (["--launcher", "ssh"], "invalid choice: 'ssh'"),
            (["--work"], "--work-dir: expected one argument"),
        ],
    )
    def test_unreadable_options(self, capsys, options, message):
        with pytest.raises(SystemExit) as caught:
            main.train([CONFIG, *options])
        error = capsys.readouterr().err
        assert caught.value.code == 2
        assert error.count("\n") == 1
        assert message in error

    def test_only_one_process_of_a_machine_speaks(self, folder, capsys, monkeypatch):
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert main.train(["gone.py"]) == 1
        assert capsys.readouterr().err == ""

    def test_the_script_itself(self, folder):
        """From a folder that knows nothing of the clone, without PYTHONPATH."""
        env = {key: val for key, val in os.environ.items() if key != "PYTHONPATH"}
        command = [sys.executable, TOOLS / "train.py", "gone.py"]
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.returncode == 1
        assert done.stderr == "train.py: there is no config file gone.py\n"


@pytest.fixture
def shell(folder):
    """Runs a script of tools/ with programs that only say how they were called."""

    def stub(name: str) -> str:
        path = folder / name
        path.write_text(f'#!/bin/sh\nprintf "<%s>" {name} "$@"\necho\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def run(script: str, *args: str, **env: str) -> subprocess.CompletedProcess:
        stub("srun")
        return subprocess.run(
            [TOOLS / script, *args],
            capture_output=True,
            text=True,
            env={
                "PATH": f"{folder}:{os.environ['PATH']}",
                "PYTHON": stub("stub-python"),
                **env,
            },
        )

    return run


class TestScripts:
    @pytest.mark.parametrize(
        ("script", "arguments"),
        [
            ("dist_train.sh", ["c.py"]),
            ("dist_test.sh", ["c.py", "m.pth"]),
            ("slurm_train.sh", ["part", "job", "c.py"]),
            ("slurm_test.sh", ["part", "job", "c.py"]),
        ],
    )
    def test_usage(self, shell, script, arguments):
        done = shell(script, *arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: ")
        assert done.stderr.count("\n") == 1

    def test_dist_train(self, shell):
        env = dict(NNODES="2", NODE_RANK="1", MASTER_ADDR="head", PORT="1234")
        done = shell("dist_train.sh", "a b.py", "4", "--cfg-options", "x=[1, 2]", **env)
        assert done.stdout == (
            "<stub-python><-m><torch.distributed.run><--nnodes=2><--node_rank=1>"
            "<--master_addr=head><--master_port=1234><--nproc_per_node=4>"
            f"<{TOOLS}/train.py><a b.py><--cfg-options><x=[1, 2]>"
            "<--launcher><pytorch>\n"
        )

    def test_dist_test(self, shell):
        done = shell("dist_test.sh", "c.py", "m 1.pth", "2", "--out", "p q.pkl")
        assert done.stdout == (
            "<stub-python><-m><torch.distributed.run><--nnodes=1><--node_rank=0>"
            "<--master_addr=127.0.0.1><--master_port=29500><--nproc_per_node=2>"
            f"<{TOOLS}/test.py><c.py><m 1.pth><--out><p q.pkl>"
            "<--launcher><pytorch>\n"
        )

    @pytest.mark.parametrize("gpus", ["0", "two", "--resume"])
    def test_gpus_that_are_no_number(self, shell, gpus):
        done = shell("dist_train.sh", "c.py", gpus)
        assert done.returncode == 2
        assert "GPUS must be a positive number" in done.stderr

    def test_slurm_train(self, shell, folder):
        env = dict(GPUS="16", GPUS_PER_NODE="4", SRUN_ARGS="--quotatype=x --mem 8G")
        arguments = ("part", "job 1", "c.py", "work dir", "--amp")
        done = shell("slurm_train.sh", *arguments, **env)
        assert done.stdout == (
            "<srun><-p><part><--job-name=job 1><--gres=gpu:4><--ntasks=16>"
            "<--ntasks-per-node=4><--cpus-per-task=5><--kill-on-bad-exit=1>"
            "<--quotatype=x><--mem><8G>"
            f"<{folder}/stub-python><-u><{TOOLS}/train.py><c.py>"
            "<--work-dir><work dir><--amp><--launcher><slurm>\n"
        )

    def test_slurm_test(self, shell):
        done = shell("slurm_test.sh", "part", "job", "c.py", "m.pth", CPUS_PER_TASK="3")
        assert "<--gres=gpu:8><--ntasks=8><--ntasks-per-node=8>" in done.stdout
        assert "<--cpus-per-task=3>" in done.stdout
        assert done.stdout.endswith("test.py><c.py><m.pth><--launcher><slurm>\n")
