"""The set-up, run with stand-ins for Python and pip that only record their calls."""

import ast
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from tools.setup_support import checks, plan, pythons, state, steps

ROOT = Path(__file__).resolve().parents[2]

# Stands for the Python of the machine and, copied into .venv/bin, for that of .venv.
# $FAIL names the call that fails, $HANG the one that never ends.
FAKE_PYTHON = """#!/bin/bash
echo "$*" >> "$CALLS"
if [[ -n "$HANG" && "$*" == *"$HANG"* ]]; then echo $$ > "$CALLS.pid"; sleep 600; fi
if [[ -n "$FAIL" && "$*" == *"$FAIL"* ]]; then echo "ERROR: it failed"; exit 1; fi
if [[ "$2" == venv ]]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
if [[ "$*" == *"pip wheel"* ]]; then
  while [[ "$1" != -w ]]; do shift; done
  mkdir -p "$2"; cp "$WHEEL" "$2/"
fi
"""


class Machine:
    """A clone, a cache and the stand-ins, all in a temporary folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.calls = folder / "calls"
        self.python = folder / "python"
        self.python.write_text(FAKE_PYTHON)
        self.python.chmod(0o755)
        self.clone = self.make_clone("clone")
        self.wheel = self.make_wheel("mmcv/__init__.py", "mmcv/_ext.cpython-311.so")
        self.monkeypatch = monkeypatch
        monkeypatch.setattr(sys, "_base_executable", str(self.python), raising=False)
        self.setenv(XDG_CACHE_HOME=folder / "cache", CALLS=self.calls, FAIL="", HANG="")
        self.setenv(WHEEL=self.wheel, FOCAL_MM_CPU_ONLY="1")

    def setenv(self, **values: object) -> None:
        for name, value in values.items():
            self.monkeypatch.setenv(name, str(value))

    def make_clone(self, name: str) -> Path:
        clone = self.folder / name
        shutil.copytree(ROOT / "requirements", clone / "requirements")
        shutil.copy(ROOT / "setup.py", clone)
        (clone / "tools").mkdir()
        shutil.copy(ROOT / "tools/setup_env.py", clone / "tools")
        shutil.copytree(ROOT / "tools/setup_support", clone / "tools/setup_support")
        return clone

    def make_wheel(self, *members: str) -> Path:
        wheel = self.folder / "onedl_mmcv-0-cp311-cp311-linux_x86_64.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for member in members:
                archive.writestr(member, "")
        return wheel

    def site(self) -> plan.Site:
        return plan.find_site(self.clone, dict(os.environ))

    def wheels(self) -> list[Path]:
        return list((self.folder / "cache").rglob("*.whl*"))

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def set_up(self, python: str | None = None) -> None:
        steps.set_up(self.clone, python)

    def start(self) -> subprocess.Popen:
        """The command line in a process of its own, which can be killed."""
        # Set-up leaves ignored signals ignored, and these tests may run under nohup.
        code = (
            "import signal; from signal import SIGHUP, SIGINT, SIGTERM; "
            "[signal.signal(s, signal.SIG_DFL) for s in (SIGHUP, SIGINT, SIGTERM)]; "
            f"import sys; sys._base_executable = {str(self.python)!r}; "
            f"sys.path.insert(0, {str(self.clone / 'tools')!r}); sys.argv = ['x']; "
            "import setup_env; sys.exit(setup_env.main())"
        )
        return subprocess.Popen(
            [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def wait_for(path: Path) -> str:
    """The text of a file as soon as it has one."""
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)
    return path.read_text()


def test_setup_makes_a_stamped_venv_and_then_leaves_it_alone(machine, capsys):
    machine.set_up()
    venv = machine.clone / ".venv"
    assert (venv / state.STAMP).exists()
    assert not (venv / state.UNFINISHED).exists()
    assert not (venv / "tmp").exists()
    [wheel] = machine.wheels()
    assert any(str(wheel) in call for call in machine.called())
    calls = machine.called()
    machine.set_up()
    assert machine.called() == calls
    assert ".venv is ready" in capsys.readouterr().out


def test_second_clone_takes_mmcv_from_the_cache(machine):
    machine.set_up()
    machine.calls.unlink()
    machine.clone = machine.make_clone("other")
    machine.set_up()
    assert (machine.clone / ".venv" / state.STAMP).exists()
    assert not any("pip wheel" in call for call in machine.called())


def test_a_damaged_kept_wheel_is_built_again(machine):
    machine.set_up()
    [wheel] = machine.wheels()
    wheel.write_bytes(wheel.read_bytes()[:20])
    shutil.rmtree(machine.clone / ".venv")
    machine.set_up()
    assert plan.has_compiled_ops(wheel)


@pytest.mark.parametrize(
    ("failing", "step"),
    [
        ("-m venv", "step 1"),
        ("install --no-compile -c", "step 2"),
        ("torch==", "step 3"),
        ("pip wheel", "step 4"),
        ("-e .[all,dev]", "step 5"),
        ("--force-reinstall", "step 6"),
        ("import mmcv.ops", "step 7"),
    ],
)
def test_a_failing_step_is_named_and_leaves_no_venv(machine, failing, step):
    machine.setenv(FAIL=failing)
    with pytest.raises(plan.SetupError, match=f"^{step} of 7, .*it failed; log: ") as e:
        machine.set_up()
    log = Path(str(e.value).rsplit("log: ", 1)[1])
    assert "ERROR: it failed" in log.read_text()
    assert not (machine.clone / ".venv").exists()
    assert len(machine.wheels()) == (step > "step 4")
    machine.setenv(FAIL="")
    machine.set_up()
    assert (machine.clone / ".venv" / state.STAMP).exists()


def test_mmcv_without_its_operators_is_refused(machine):
    machine.make_wheel("mmcv/__init__.py")
    with pytest.raises(plan.SetupError, match="lacks mmcv's compiled operators"):
        machine.set_up()
    assert machine.wheels() == []
    assert not (machine.clone / ".venv").exists()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_removes_the_unfinished_venv_and_ends_pip(machine, signum):
    machine.setenv(HANG="torch==")
    process = machine.start()
    pip = int(wait_for(Path(f"{machine.calls}.pid")))
    process.send_signal(signum)
    message = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signum
    assert signal.Signals(signum).name in message
    assert "Traceback" not in message
    assert not (machine.clone / ".venv").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(pip, 0)


def test_a_killed_setup_is_noticed_and_done_again(machine, capsys):
    machine.setenv(HANG="torch==")
    process = machine.start()
    pip = int(wait_for(Path(f"{machine.calls}.pid")))
    process.kill()
    process.communicate(timeout=60)
    assert (machine.clone / ".venv" / "bin" / "python").exists()
    os.killpg(pip, signal.SIGKILL)
    machine.setenv(HANG="")
    machine.set_up()
    assert "an earlier set-up did not finish" in capsys.readouterr().out
    assert (machine.clone / ".venv" / state.STAMP).exists()


def foreign_venv(venv: Path) -> None:
    venv.mkdir()
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\n")


def foreign_folder(venv: Path) -> None:
    venv.mkdir()
    (venv / "thesis.txt").write_text("mine")


def foreign_file(venv: Path) -> None:
    venv.write_text("mine")


def dangling_link(venv: Path) -> None:
    venv.symlink_to("nowhere")


def unfinished_link(venv: Path) -> None:
    (venv.parent / "elsewhere").mkdir()
    (venv.parent / "elsewhere" / state.UNFINISHED).touch()
    venv.symlink_to("elsewhere")


@pytest.mark.parametrize(
    "make",
    [foreign_venv, foreign_folder, foreign_file, dangling_link, unfinished_link],
)
def test_what_the_user_made_is_never_touched(machine, make):
    make(machine.clone / ".venv")
    before = sorted(machine.clone.rglob("*"))
    with pytest.raises(plan.SetupError, match="move it away") as error:
        machine.set_up()
    assert "\n" not in str(error.value)
    assert sorted(machine.clone.rglob("*")) == before
    assert machine.called() == []


def change_pins(machine: Machine) -> None:
    with open(machine.site().constraints, "a") as file:
        file.write("new-package==1.0\n")


def change_requirements(machine: Machine) -> None:
    with open(machine.clone / "setup.py", "a") as file:
        file.write("# changed\n")


def move_clone(machine: Machine) -> None:
    machine.clone = machine.clone.rename(machine.folder / "moved")


def remove_python(machine: Machine) -> None:
    (machine.clone / ".venv/bin/python").unlink()


def damage_stamp(machine: Machine) -> None:
    (machine.clone / ".venv" / state.STAMP).write_text("{")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (change_pins, "constraints.txt"),
        (change_requirements, "setup.py"),
        (move_clone, "the folder of the clone"),
        (remove_python, "the Python it was made with is gone"),
        (damage_stamp, "cannot be read"),
    ],
)
def test_an_outdated_venv_is_made_anew(machine, change, reason, capsys):
    machine.set_up()
    change(machine)
    (machine.clone / ".venv" / "leftover").touch()
    machine.set_up()
    assert reason in capsys.readouterr().out
    assert not (machine.clone / ".venv" / "leftover").exists()
    assert state.venv_state(machine.site())[0] == "ready"


def test_a_named_python_is_taken_and_an_unnamed_one_changes_nothing(machine):
    machine.set_up()
    stamp = machine.clone / ".venv" / state.STAMP
    stamp.write_text(json.dumps({**json.loads(stamp.read_text()), "python": "3.10.1"}))
    assert state.venv_state(machine.site()) == ("ready", "Python 3.10.1")
    assert state.venv_state(machine.site(), "3.10.1")[0] == "ready"
    assert state.venv_state(machine.site(), "3.12.0")[0] == "remake"


def test_removing_a_venv_marks_it_first(machine, monkeypatch):
    machine.set_up()
    monkeypatch.setattr(shutil, "rmtree", lambda *args, **kwargs: sys.exit("killed"))
    with pytest.raises(SystemExit):
        state.remove_venv(machine.clone / ".venv")
    assert state.venv_state(machine.site())[0] == "remake"


# Preconditions: one line, and nothing was made.


def no_compiler(machine: Machine) -> None:
    machine.setenv(CXX="no-such-compiler")


def no_headers(machine: Machine) -> None:
    machine.monkeypatch.setattr(
        checks.sysconfig, "get_path", lambda name: str(machine.folder)
    )


def no_ensurepip(machine: Machine) -> None:
    find = importlib.util.find_spec
    machine.monkeypatch.setattr(
        importlib.util, "find_spec", lambda m: None if m == "ensurepip" else find(m)
    )


def no_disk(machine: Machine) -> None:
    usage = namedtuple("usage", "free")
    machine.monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9.9e9))


def fake_gpu(machine: Machine, **tools: str) -> None:
    """A driver that lists two GPUs, and maybe other tools that print something."""
    folder = machine.folder / "bin"
    folder.mkdir()
    for name, output in {"nvidia-smi": "9.0\n8.0\n9.0", **tools}.items():
        (folder / name).write_text(f"#!/bin/sh\necho '{output}'\n")
        (folder / name).chmod(0o755)
    machine.setenv(FOCAL_MM_CPU_ONLY="", PATH=f"{folder}:{os.environ['PATH']}")


def no_nvcc(machine: Machine) -> None:
    fake_gpu(machine)
    machine.setenv(CUDA_HOME=machine.folder)


def old_nvcc(machine: Machine) -> None:
    fake_gpu(machine, nvcc="Cuda compilation tools, release 11.8, V11.8.89")
    machine.setenv(CUDA_HOME="", CUDA_PATH="")


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (no_compiler, r"no C\+\+ compiler \(no-such-compiler\)"),
        (no_headers, r"no .*Python\.h"),
        (no_ensurepip, r"no module ensurepip: .*python3\.\d+-venv"),
        (no_disk, r"not enough disk: .* need 1\d GB free, there are 9\.9 GB"),
        (no_nvcc, r"no nvcc .*install the CUDA 13 toolkit .*FOCAL_MM_CPU_ONLY=1"),
        (old_nvcc, r"nvcc is release 11, torch is built for CUDA 13"),
    ],
)
def test_a_missing_precondition_is_one_line_and_makes_nothing(machine, spoil, line):
    spoil(machine)
    with pytest.raises(plan.SetupError, match=line) as error:
        machine.set_up()
    assert "\n" not in str(error.value)
    assert not (machine.clone / ".venv").exists()
    assert machine.called() == []


def test_no_compiler_is_needed_once_mmcv_is_kept(machine):
    machine.set_up()
    shutil.rmtree(machine.clone / ".venv")
    no_compiler(machine)
    machine.set_up()
    assert (machine.clone / ".venv" / state.STAMP).exists()


def test_flavour_follows_the_gpus_and_the_users_word(machine):
    pins = machine.site().pins()
    assert plan.choose_flavour({"FOCAL_MM_CPU_ONLY": "1"}, pins).name == "cpu"
    forced = plan.choose_flavour({"FORCE_CUDA": "1"}, pins)
    assert forced.env["FORCE_CUDA"] == "1"
    fake_gpu(machine)
    found = plan.choose_flavour({}, pins)
    assert found.env == {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": "8.0;9.0"}
    cpu = plan.choose_flavour({"FOCAL_MM_CPU_ONLY": "1"}, pins)
    assert cpu.env == {"FORCE_CUDA": "0", "CUDA_VISIBLE_DEVICES": ""}
    site = machine.site()
    folders = {plan.wheel_folder(site, f).name for f in (forced, found, cpu)}
    assert len(folders) == 3
    for name in folders:
        assert f"mmcv{pins['onedl-mmcv']}-torch{pins['torch']}-py3." in name


# Python versions


@pytest.mark.parametrize("version", [(3, 6, 15), (3, 9, 1), (3, 13, 0)])
def test_an_unsupported_python_is_named_with_the_way_out(version):
    line = pythons.python_problem(version, "/usr/bin/python3")
    assert f"Python {version[0]}.{version[1]} (/usr/bin/python3)" in line
    assert "make setup PYTHON=" in line
    assert "\n" not in line


@pytest.mark.parametrize("minor", [10, 11, 12])
def test_supported_pythons(minor):
    assert pythons.python_problem((3, minor, 0), "python3") == ""


@pytest.mark.parametrize("name", ["setup_env.py", "setup_support/pythons.py"])
def test_old_pythons_can_read_what_tells_them_so(name):
    source = (ROOT / "tools" / name).read_text()
    tree = ast.parse(source, feature_version=(3, 7))
    modules = [n.module for n in tree.body if isinstance(n, ast.ImportFrom)]
    # Unknown to some of them, and the other parts are not written for them.
    assert "__future__" not in modules
    assert set(modules) <= {"setup_support.pythons"}
