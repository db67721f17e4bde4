"""Two machines, as far as one machine can be two: they compute what one does."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import ROOT, free_port
from tests.end_to_end.test_train_resume import losses_of

pytestmark = pytest.mark.slow

SRUN = '''#!{python}
"""Starts the command's tasks on this machine, each with what srun tells it."""
import os, signal, subprocess, sys

options = dict(o[2:].split("=", 1) for o in sys.argv[1:] if o.startswith("--n"))
command = sys.argv[sys.argv.index({python!r}) :]
number = int(options["ntasks"])
shared = dict(
    SLURM_NTASKS=str(number),
    SLURM_NTASKS_PER_NODE=options["ntasks-per-node"],
    SLURM_NODELIST="node[1]",
)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
tasks = []
try:
    for rank in map(str, range(number)):
        ids = dict(SLURM_PROCID=rank, SLURM_LOCALID=rank)
        tasks.append(subprocess.Popen(command, env=os.environ | shared | ids))
    sys.exit(max(task.wait() for task in tasks))
finally:
    for task in tasks:
        task.kill()
        task.wait()
'''


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts scripts of tools/ on the CPU; none of them outlives the test."""
    started = []

    def begin(script: str, *args: object, **env: object) -> subprocess.Popen:
        log = (tmp_path / f"{len(started)}.log").open("w+")
        # The threads of the run with two processes to which this one is compared.
        threads = max(1, len(os.sched_getaffinity(0)) // 2)
        overrides = {
            "PYTHON": sys.executable,
            "CUDA_VISIBLE_DEVICES": "-1",
            "OMP_NUM_THREADS": threads,
            **env,
        }
        process = subprocess.Popen(
            [ROOT / "tools" / script, *map(str, args)],
            env=os.environ | {key: str(value) for key, value in overrides.items()},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        started.append((process, log))
        return process

    yield begin
    for process, _ in started:
        # torchrun and the srun above end their processes, then themselves.
        process.terminate()
    for process, log in started:
        process.wait(timeout=60)
        log.close()


def finish(processes: list[subprocess.Popen], logs: Path) -> list[str]:
    """Wait for all; what each of them printed."""
    codes = [process.wait(timeout=540) for process in processes]
    outputs = [(logs / f"{i}.log").read_text() for i in range(len(processes))]
    assert codes == [0] * len(codes), "\n".join(text[-3000:] for text in outputs)
    return outputs


def test_two_torchrun_agents_train_together(start, unbroken_run, toy_config, tmp_path):
    work_dir, port = tmp_path / "work", free_port()
    agents = [
        start(
            "dist_train.sh",
            toy_config,
            1,
            "--work-dir",
            work_dir,
            NNODES=2,
            NODE_RANK=rank,
            MASTER_ADDR="127.0.0.1",
            PORT=port,
        )
        for rank in range(2)
    ]
    outputs = finish(agents, tmp_path)
    assert "2 CPU processes" in outputs[0]
    assert losses_of(work_dir) == losses_of(unbroken_run[0])


@pytest.mark.parametrize("missing", [0, 1])
def test_data_that_one_machine_lacks_stops_both(start, toy_config, tmp_path, missing):
    port, agents = free_port(), []
    for rank in range(2):
        options = ["--work-dir", tmp_path / "work"]
        if rank == missing:
            options += ["--cfg-options", "train_dataloader.dataset.data_root=/gone/"]
        node = dict(NNODES=2, NODE_RANK=rank, MASTER_ADDR="127.0.0.1", PORT=port)
        agents.append(start("dist_train.sh", toy_config, 1, *options, **node))
    assert [agent.wait(timeout=300) for agent in agents] == [1, 1]
    for rank in range(2):
        output = (tmp_path / f"{rank}.log").read_text()
        (line,) = [line for line in output.splitlines() if "train.py: " in line]
        assert "data not found: /gone/" in line
        assert ("on another machine" in line) == (rank != missing)
        assert "Traceback" not in output
    assert not (tmp_path / "work").exists()


def test_slurm_tasks_train_together(start, unbroken_run, toy_config, tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in (
        ("srun", SRUN.format(python=sys.executable)),
        ("scontrol", "#!/bin/sh\necho 127.0.0.1\n"),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(stat.S_IRWXU)
    work_dir = tmp_path / "work"
    job = start(
        "slurm_train.sh",
        "partition",
        "job",
        toy_config,
        work_dir,
        GPUS=2,
        GPUS_PER_NODE=2,
        MASTER_PORT=free_port(),
        PATH=f"{programs}:{os.environ['PATH']}",
    )
    (output,) = finish([job], tmp_path)
    assert "2 CPU processes" in output
    assert losses_of(work_dir) == losses_of(unbroken_run[0])
