"""The shell scripts: what they start, and how they say no."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture
def shell(tmp_path):
    """Runs a script of tools/ with programs that only say how they were called."""

    def stub(name: str) -> str:
        path = tmp_path / name
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
                "PATH": f"{tmp_path}:{os.environ['PATH']}",
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
            f"<stub-python><{TOOLS}/_torchrun.py><--nnodes=2><--node_rank=1>"
            "<--master_addr=head><--master_port=1234><--max_restarts=2>"
            "<--nproc_per_node=4>"
            f"<{TOOLS}/train.py><a b.py><--cfg-options><x=[1, 2]>"
            "<--launcher><pytorch>\n"
        )

    def test_dist_test(self, shell):
        done = shell("dist_test.sh", "c.py", "m 1.pth", "2", "--out", "p q.pkl")
        assert done.stdout == (
            f"<stub-python><{TOOLS}/_torchrun.py><--nnodes=1><--node_rank=0>"
            "<--master_addr=127.0.0.1><--master_port=29500><--max_restarts=0>"
            "<--nproc_per_node=2>"
            f"<{TOOLS}/test.py><c.py><m 1.pth><--out><p q.pkl>"
            "<--launcher><pytorch>\n"
        )

    @pytest.mark.parametrize(
        ("environment", "processes", "threads"),
        [({}, "2", "3"), ({}, "8", "1"), ({"OMP_NUM_THREADS": "5"}, "2", "5")],
    )
    def test_cores_are_shared(self, shell, tmp_path, environment, processes, threads):
        (tmp_path / "nproc").write_text("#!/bin/sh\necho 6\n")
        (tmp_path / "python").write_text('#!/bin/sh\necho "$OMP_NUM_THREADS"\n')
        for name in ("nproc", "python"):
            (tmp_path / name).chmod(stat.S_IRWXU)
        environment = environment | {"PYTHON": "python"}
        done = shell("dist_train.sh", "c.py", processes, **environment)
        assert done.stdout == f"{threads}\n"

    @pytest.mark.parametrize("gpus", ["0", "two", "--resume"])
    def test_gpus_that_are_no_number(self, shell, gpus):
        done = shell("dist_train.sh", "c.py", gpus)
        assert done.returncode == 2
        assert "GPUS must be a positive number" in done.stderr

    @pytest.mark.parametrize("port", ["abc", "0", "65536", "-1", "1 2"])
    def test_ports_that_are_none(self, shell, port):
        done = shell("dist_train.sh", "c.py", "2", PORT=port, PYTHON=sys.executable)
        assert done.returncode == 1
        assert done.stderr == (
            f"torchrun: PORT must be a number from 1 to 65535, got {port!r}\n"
        )

    def test_port_that_is_taken(self, shell):
        with socket.create_server(("", 0)) as taken:
            port = str(taken.getsockname()[1])
            env = dict(PORT=port, PYTHON=sys.executable)
            done = shell("dist_test.sh", "c.py", "m.pth", "2", **env)
        assert done.returncode == 1
        assert f"torchrun: set PORT to a free port, {port} is not: " in done.stderr
        assert done.stderr.count("\n") == 1

    def test_restarts_are_the_users_choice(self, shell):
        done = shell("dist_train.sh", "c.py", "2", MAX_RESTARTS="5")
        assert "<--max_restarts=5>" in done.stdout

    def test_slurm_train(self, shell, tmp_path):
        env = dict(GPUS="16", GPUS_PER_NODE="4", SRUN_ARGS="--quotatype=x --mem 8G")
        arguments = ("part", "job 1", "c.py", "work dir", "--amp")
        done = shell("slurm_train.sh", *arguments, **env)
        assert done.stdout == (
            "<srun><-p><part><--job-name=job 1><--gres=gpu:4><--ntasks=16>"
            "<--ntasks-per-node=4><--cpus-per-task=5><--kill-on-bad-exit=1>"
            "<--quotatype=x><--mem><8G>"
            f"<{tmp_path}/stub-python><-u><{TOOLS}/train.py><c.py>"
            "<--work-dir><work dir><--amp><--launcher><slurm>\n"
        )

    def test_slurm_test(self, shell):
        done = shell("slurm_test.sh", "part", "job", "c.py", "m.pth", CPUS_PER_TASK="3")
        assert "<--gres=gpu:8><--ntasks=8><--ntasks-per-node=8>" in done.stdout
        assert "<--cpus-per-task=3>" in done.stdout
        assert done.stdout.endswith("test.py><c.py><m.pth><--launcher><slurm>\n")
