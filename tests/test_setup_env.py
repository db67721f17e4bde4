"""The script of `make setup`, with stand-ins for Python, pip, uv and the machine."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OPERATOR = "focal_mm/ops/window/cpu/attention.cpp"

PYTHON = f"""#!/bin/bash
case "$*" in
  *_base_executable*) echo "$0" ;;
  "-m venv "*)
    echo "venv" >>"$CALLS"
    mkdir -p "$3/bin"
    cp "$0" "$3/bin/python"
    cp "$STANDINS/uv" "$3/bin/uv"
    cp "$STANDINS/uv" "$3/bin/pip" ;;
  setup.py*) echo "operator" >>"$CALLS" ;;
  -I*) echo "check" >>"$CALLS" ;;
  *) exec {sys.executable} "$@" ;;
esac
"""
UV = """#!/bin/bash
echo "${0##*/} $*" >>"$CALLS"
[[ -z "$FAIL" || "$*" != *"$FAIL"* ]]
"""
COMMANDS = {
    "fake_python": PYTHON,
    "uv": UV,
    "c++": "#!/bin/bash\necho 'Free Software Foundation'\n",
    "df": "#!/bin/bash\necho disk 0 0 ${FREE_KB:-99000000}\n",
    "nvidia-smi": "#!/bin/bash\nexit 1\n",
}


class Machine:
    """A clone's requirements and the stand-ins, in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.clone, self.calls = folder / "clone", folder / "calls"
        shutil.copytree(ROOT / "requirements", self.clone / "requirements")
        (self.clone / OPERATOR).parent.mkdir(parents=True)
        shutil.copy(ROOT / OPERATOR, self.clone / OPERATOR)
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, text in COMMANDS.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)

    def set_up(self, *args: str, **env: str) -> subprocess.CompletedProcess:
        """Run the script; what the stand-ins were called with is in `called`."""
        self.calls.write_text("")
        done = subprocess.run(
            [self.clone / "requirements/setup_env.sh", *args],
            env={
                "PATH": f"{self.bin}:{os.environ['PATH']}",
                "HOME": str(self.bin),
                "PYTHON": str(self.bin / "fake_python"),
                "CALLS": str(self.calls),
                "STANDINS": str(self.bin),
                **env,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        self.called = self.calls.read_text().splitlines()
        return done

    def edit(self, name: str) -> None:
        with open(self.clone / name, "a") as file:
            file.write("# edited\n")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def pinned(name: str, file: str = "constraints.txt") -> str:
    lines = (ROOT / "requirements" / file).read_text().splitlines()
    [line] = [line for line in lines if line.startswith(f"{name}==")]
    return line


def test_mmcv_is_built_after_torch_and_for_it(machine):
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    venv, pip, torch, mmcv, rest, peft, operator, check = machine.called
    assert (venv, operator, check) == ("venv", "operator", "check")
    assert pip.startswith("pip install")
    assert pinned("uv") in pip
    assert " torch torchvision " in torch
    assert mmcv.endswith(pinned("onedl-mmcv"))
    assert f"for={pinned('torch')}, CPU" in mmcv
    assert rest.endswith("--editable .[all,dev,docs]")
    # Not among the others: see the script.
    assert f"--no-deps --target {machine.clone}/.venv/peft" in peft
    for call in (torch, mmcv, rest, peft):
        assert "--constraints requirements/constraints.txt" in call


def test_cuda_operators_are_a_build_of_their_own(machine):
    (machine.bin / "nvcc").symlink_to(machine.bin / "uv")
    done = machine.set_up(FORCE_CUDA="1", TORCH_CUDA_ARCH_LIST="9.0")
    assert done.returncode == 0, done.stderr
    assert any(f"for={pinned('torch')}, CUDA 9.0" in call for call in machine.called)


def test_the_upstream_family_has_its_own_environment(machine):
    done = machine.set_up(".venv-upstream", "requirements/upstream.txt")
    assert done.returncode == 0, done.stderr
    mmcv, rest = machine.called[3:5]
    assert mmcv.endswith(pinned("mmcv", "upstream.txt"))
    assert rest.endswith("--requirements requirements/upstream.txt --editable .")
    assert not any("peft" in call for call in machine.called)
    assert not (machine.clone / ".venv").exists()


@pytest.mark.parametrize("changed", ["requirements/constraints.txt", OPERATOR])
def test_a_finished_environment_is_kept_until_its_inputs_change(machine, changed):
    machine.set_up()
    (machine.clone / "setup.py").write_text("# not a part of it\n")
    for env in ({}, {"PYTHON": ""}, {"CXX": "no-such-compiler"}):
        done = machine.set_up(**env)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        assert machine.called == []
    machine.edit(changed)
    assert machine.set_up().returncode == 0
    assert "venv" in machine.called


def test_an_unfinished_environment_is_made_anew(machine):
    done = machine.set_up(FAIL="mmcv==")
    assert done.returncode == 1
    assert "could not install" in done.stderr
    leftover = machine.clone / ".venv/lib/half"
    leftover.mkdir(parents=True)
    done = machine.set_up()
    assert done.returncode == 0, done.stderr
    assert machine.called[0] == "venv"
    assert machine.called[-1] == "check"
    assert not leftover.exists()


@pytest.mark.parametrize(
    ("env", "reason"),
    [
        ({"PYTHON": "no-such-python"}, "no-such-python is not Python 3.10 to 3.12"),
        ({"CXX": "no-such-compiler"}, "no C++ compiler no-such-compiler"),
        ({"FREE_KB": "3000000"}, "3 GB of disk space free, 8 GB are needed"),
        ({"FORCE_CUDA": "1", "CUDA_HOME": "/nowhere"}, "no /nowhere/bin/nvcc"),
    ],
)
def test_what_is_missing_is_one_line_and_nothing_is_made(machine, env, reason):
    done = machine.set_up(**env)
    assert done.returncode == 1
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (machine.clone / ".venv").exists()


def test_a_foreign_environment_is_not_removed(machine):
    kept = machine.clone / ".venv/precious"
    kept.mkdir(parents=True)
    done = machine.set_up()
    assert done.returncode == 1
    assert "move it away" in done.stderr
    assert kept.exists()


class TestPrecompiledHeader:
    """The compiler that mmcv is built with, on a header in the place of torch's."""

    @pytest.fixture
    def torch_header(self, tmp_path):
        if shutil.which("g++") is None:
            pytest.skip("no g++ on the PATH")
        header = tmp_path / "include/torch/types.h"
        header.parent.mkdir(parents=True)
        header.write_text("inline int seven() { return 7; }\n")
        (tmp_path / "main.cpp").write_text("int call() { return seven(); }\n")
        (tmp_path / "precompiled").mkdir()
        return header

    @staticmethod
    def compile(folder: Path, *flags: str) -> subprocess.CompletedProcess:
        # As ninja calls it for torch's extensions, the doubled -c too.
        files = ("-c", "-c", folder / "main.cpp", "-o", folder / "main.o")
        depends = ("-MMD", "-MF", folder / "main.o.d")
        return subprocess.run(
            [
                ROOT / "requirements/cxx_precompiled.sh",
                *(*depends, "-O3", "-fPIC", f"-I{folder / 'include'}"),
                *(*files, "-std=c++17", *flags),
            ],
            env={
                "PATH": os.environ["PATH"],
                "PRECOMPILED": str(folder / "precompiled"),
                "REAL_CXX": "g++",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def test_is_made_once_and_used(self, torch_header, tmp_path):
        for _ in range(2):
            done = self.compile(tmp_path, "-Winvalid-pch", "-Werror")
            assert done.returncode == 0, done.stderr
            assert (tmp_path / "main.o").exists()
            # Gone, and not missed: the second time the precompiled one is used.
            torch_header.unlink(missing_ok=True)
        assert not (tmp_path / "precompiled/failed").exists()

    def test_is_done_without_where_it_cannot_be_made(self, torch_header, tmp_path):
        torch_header.write_text("#error not for this compiler\n")
        (tmp_path / "main.cpp").write_text("int call() { return 7; }\n")
        done = self.compile(tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "main.o").exists()
        assert "mmcv took longer" in (tmp_path / "precompiled/failed").read_text()
