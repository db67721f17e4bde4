"""The set-up itself: its steps, in order, and what happens when one fails."""

import contextlib
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .checks import check_preconditions
from .commands import (
    CompileStatus,
    PipStatus,
    Progress,
    clock,
    failure_reason,
    run_logged,
)
from .plan import (
    BUILD_TOOLS,
    FRAMEWORK,
    HEADLESS,
    PROJECT,
    Flavour,
    SetupError,
    Site,
    cached_wheel,
    choose_flavour,
    find_site,
    has_compiled_ops,
    wheel_folder,
)
from .state import (
    UNFINISHED,
    locked,
    remove_venv,
    replace_file,
    venv_state,
    write_stamp,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Imports what most commands import, so that their bytecode is there from the start.
CHECK = "import mmcv.ops, mmdet.models, mmseg.models, mmpretrain.models, cv2"


class Stopped(BaseException):
    """A signal asked the set-up to stop."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def stop_on_signals() -> None:
    """Let signals end the set-up through its clean-up."""

    def stop(signum: int, frame: object) -> None:
        raise Stopped(signum)

    for signum in SIGNALS:
        # nohup and the like ignore some on purpose.
        if signal.getsignal(signum) != signal.SIG_IGN:
            signal.signal(signum, stop)


def set_up(root: str | Path, python: str | None = None) -> None:
    """Make ``.venv`` unless a finished one of the present recipe is there.

    Args:
        root: Folder of the clone.
        python: Version that ``.venv`` must have; None keeps what is there.

    Raises:
        SetupError: A precondition does not hold or a step failed; nothing half made
            is left.
    """
    site = find_site(Path(root), dict(os.environ))
    state, why = venv_state(site, python)
    if state == "ready":
        print(f".venv is ready ({why})")
        return
    lock = site.log.with_suffix(".lock")
    with locked(lock, "another set-up is at work in this clone") as held:
        state, why = venv_state(site, python)
        if state == "ready":
            print(f".venv is ready ({why})")
            return
        flavour = choose_flavour(dict(os.environ), site.pins())
        check_preconditions(site, flavour, dict(os.environ))
        if state == "remake":
            print(f"making .venv anew: {why}")
        make(site, Steps(site, flavour, held))


def make(site: Site, steps: "Steps") -> None:
    """Run the steps in a new ``.venv``; one that they do not finish is removed."""
    try:
        remove_venv(site.venv)
        site.venv.mkdir()
        (site.venv / UNFINISHED).touch()
        steps.run()
        write_stamp(site)
    except BaseException:
        with undisturbed():
            remove_venv(site.venv)
        raise


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore the signals that would stop a clean-up half way."""
    before = {signum: signal.signal(signum, signal.SIG_IGN) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class Steps:
    """The steps of one set-up.

    Args:
        site: The clone and the cache.
        flavour: Which operators mmcv gets.
        lock: Descriptor of the held lock; commands inherit it, so that one which
            outlives a killed set-up still keeps the next one waiting.
    """

    def __init__(self, site: Site, flavour: Flavour, lock: int) -> None:
        self.site, self.flavour, self.lock = site, flavour, lock
        self.pins = site.pins()
        self.temp = site.venv / "tmp"
        self.step = ""
        # The Python under this one, should this one be that of the old .venv.
        self.base_python = getattr(sys, "_base_executable", sys.executable)
        self.python = str(site.venv / "bin" / "python")

    def run(self) -> None:
        begin = time.monotonic()
        self.site.log.unlink(missing_ok=True)
        self.say(
            f"setting up {self.site.venv} with Python {sys.version.split()[0]}; "
            f"mmcv operators: {self.flavour.name} ({self.flavour.reason}); "
            f"log: {self.site.log}"
        )
        steps = self.list_steps()
        for number, (title, action) in enumerate(steps, 1):
            self.step = f"step {number} of {len(steps)}, {title}"
            self.say(f"[{number}/{len(steps)}] {title}")
            action()
        shutil.rmtree(self.temp)
        self.say(f".venv is ready, made in {clock(time.monotonic() - begin)}")

    def list_steps(self) -> list[tuple[str, Callable[[], None]]]:
        return [
            ("virtual environment", self.make_environment),
            ("build tools", self.install_build_tools),
            (" and ".join(self.pinned(FRAMEWORK)), self.install_framework),
            (self.pinned(["onedl-mmcv"])[0], self.install_mmcv),
            ("OpenMMLab libraries, developer tools, focal_mm", self.install_project),
            ("OpenCV that needs no display library", self.install_headless),
            ("check that mmcv's operators load", self.check),
        ]

    def say(self, line: str) -> None:
        print(line, flush=True)

    def make_environment(self) -> None:
        self.command([self.base_python, "-m", "venv", str(self.site.venv)])
        self.temp.mkdir()

    def install_build_tools(self) -> None:
        self.install(*self.pinned(BUILD_TOOLS))

    def install_framework(self) -> None:
        self.install(*self.pinned(FRAMEWORK))
        if self.flavour.reason != "GPU found":
            return
        try:
            self.command(
                [self.python, "-c", "import torch; torch.zeros(1, device='cuda')"]
            )
        except SetupError as error:
            raise SetupError(
                f"torch cannot use the GPU (update the NVIDIA driver, or set "
                f"FOCAL_MM_CPU_ONLY=1): {error}"
            ) from None

    def install_mmcv(self) -> None:
        folder = wheel_folder(self.site, self.flavour)
        with locked(folder / ".lock", f"another set-up compiles into {folder}"):
            wheel = cached_wheel(folder)
            if wheel:
                self.say(f"      compiled before, from {folder}")
            else:
                wheel = self.build_mmcv(folder)
        self.install("--no-deps", str(wheel))

    def build_mmcv(self, folder: Path) -> Path:
        """Compile mmcv and keep its wheel, which enters the cache whole or not."""
        log = folder / "build.log"
        log.unlink(missing_ok=True)
        self.say(
            f"      compiling its operators: about 20 minutes of CPU time, once; the "
            f"wheel is kept in {folder}; log: {log}"
        )
        built = self.temp / "wheel"
        # Without build isolation, or torch is not there and mmcv silently leaves its
        # operators out. Without pip's cache: pip's own wheels do not know their torch.
        options = ("-v", "--no-cache-dir", "--no-build-isolation", "--no-deps")
        source = ("--no-binary", "onedl-mmcv", *self.pinned(["onedl-mmcv"]))
        self.command(
            self.pip("wheel", *options, "-w", str(built), *source),
            log=log,
            status=CompileStatus(),
            env={
                "MMCV_WITH_OPS": "1",
                "MAX_JOBS": os.environ.get("MAX_JOBS") or str(self.compile_jobs()),
                **self.flavour.env,
            },
        )
        wheels = [wheel for wheel in built.glob("*.whl") if has_compiled_ops(wheel)]
        if len(wheels) != 1:
            raise SetupError(
                f"{self.step}: the wheel lacks mmcv's compiled operators; log: {log}"
            )
        kept = folder / wheels[0].name
        replace_file(kept, wheels[0].read_bytes())
        return kept

    def compile_jobs(self) -> int:
        """As many compilers as there are cores and memory for."""
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        each = 2e9 if self.flavour.name == "cpu" else 4e9
        return max(1, min(len(os.sched_getaffinity(0)), int(memory / each)))

    def install_project(self) -> None:
        self.install(*PROJECT)

    def install_headless(self) -> None:
        """Of the two OpenCV builds that get pulled in, let the headless one win.

        Both own the folder ``cv2`` and both must stay installed by name, since
        packages require either; so the headless one is laid over the other.
        """
        versions = self.site.venv.glob("lib/python*/site-packages/cv2/version.py")
        if any("headless = True" in path.read_text() for path in versions):
            return
        self.install("--no-deps", "--force-reinstall", HEADLESS)

    def check(self) -> None:
        self.command([self.python, "-I", "-W", "ignore", "-c", CHECK])

    def pinned(self, names: Sequence[str]) -> list[str]:
        return [f"{name}=={self.pins[name]}" for name in names]

    def pip(self, *args: str) -> list[str]:
        return [self.python, "-m", "pip", *args]

    def install(self, *args: str) -> None:
        pinned = ("-c", str(self.site.constraints))
        self.command(self.pip("install", "--no-compile", *pinned, *args))

    def command(
        self,
        argv: list[str],
        log: Path | None = None,
        status: PipStatus | None = None,
        env: dict[str, str] | None = None,
    ) -> None:
        """Run one command of the present step.

        Raises:
            SetupError: It failed; the line names step, reason and log.
        """
        log = log or self.site.log
        start = log.stat().st_size if log.exists() else 0
        code = run_logged(
            argv,
            log,
            status or PipStatus(),
            Progress(sys.stdout),
            env={**self.environment(), **(env or {})},
            cwd=self.site.root,
            keep_open=(self.lock,),
        )
        if code:
            reason = failure_reason(log, start) or f"exit code {code}"
            raise SetupError(f"{self.step}: {reason}; log: {log}")

    def environment(self) -> dict[str, str]:
        """The user's environment without what would lead pip out of ``.venv``."""
        foreign = {"PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_USER"}
        kept = {name: os.environ[name] for name in os.environ.keys() - foreign}
        return kept | {
            "PATH": f"{self.site.venv / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "VIRTUAL_ENV": str(self.site.venv),
            "PYTHONNOUSERSITE": "1",
            "PYTHONUNBUFFERED": "1",
            "PIP_NO_INPUT": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            # Gigabytes pass through here: not through a small /tmp, and removed with
            # an unfinished .venv.
            "TMPDIR": str(self.temp if self.temp.is_dir() else self.site.venv),
        }
