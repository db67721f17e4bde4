"""Whether ``.venv`` is there, whole and of the present recipe; its stamp and lock."""

import contextlib
import fcntl
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

from .plan import (
    BUILD_TOOLS,
    FRAMEWORK,
    HEADLESS,
    PROJECT,
    SetupError,
    Site,
)

STAMP = "focal_mm-setup.json"
UNFINISHED = "focal_mm-setup.unfinished"


def recipe(site: Site) -> dict[str, str]:
    """What a finished ``.venv`` depends on; a change to any of it means a new one."""

    def digest(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()

    steps = repr((BUILD_TOOLS, FRAMEWORK, PROJECT, HEADLESS))
    return {
        "requirements/constraints.txt": digest(site.constraints.read_bytes()),
        "setup.py": digest((site.root / "setup.py").read_bytes()),
        "the install steps": digest(steps.encode()),
        "the folder of the clone": str(site.root),
    }


def write_stamp(site: Site) -> None:
    """Declare ``.venv`` finished; only now does any later run take it as good."""
    stamp = {"python": platform.python_version(), "recipe": recipe(site)}
    replace_file(site.venv / STAMP, json.dumps(stamp, indent=1).encode())
    with contextlib.suppress(FileNotFoundError):
        (site.venv / UNFINISHED).unlink()


def replace_file(path: Path, data: bytes) -> None:
    """Write a file that is there whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            part.unlink()


def venv_state(site: Site, python: str | None = None) -> tuple[str, str]:
    """What is to be done with ``.venv``: ('ready' | 'make' | 'remake', why).

    Args:
        site: The clone.
        python: A version that ``.venv`` must have, or None for any.

    Raises:
        SetupError: ``.venv`` is something that no set-up made.
    """
    venv = site.venv
    if not os.path.lexists(venv):
        return "make", ""
    state, why = "", ""
    if (venv / UNFINISHED).exists():
        state, why = "remake", "an earlier set-up did not finish"
    elif (venv / STAMP).exists():
        state, why = compare_stamp(site, python)
    elif venv.is_dir() and not any(venv.iterdir()):
        state = "make"
    if not state or (state != "ready" and venv.is_symlink()):
        raise SetupError(
            f"{venv} was not made by `make setup`: move it away, then run it again"
        )
    return state, why


def compare_stamp(site: Site, python: str | None) -> tuple[str, str]:
    try:
        stamp = json.loads((site.venv / STAMP).read_bytes())
        made, made_with = stamp["recipe"], stamp["python"]
    except (ValueError, KeyError, TypeError):
        return "remake", f"its {STAMP} cannot be read"
    now = recipe(site)
    changed = [name for name in now if made.get(name) != now[name]]
    if changed:
        return "remake", f"changed since it was made: {', '.join(changed)}"
    if not os.access(site.venv / "bin" / "python", os.X_OK):
        return "remake", "the Python it was made with is gone"
    if python not in (None, made_with):
        return "remake", f"it has Python {made_with}, wanted is {python}"
    return "ready", f"Python {made_with}"


def remove_venv(venv: Path) -> None:
    """Remove ``.venv``; its mark goes last, so that a killed removal is seen."""
    if not venv.is_dir():
        return
    (venv / UNFINISHED).touch()
    for entry in venv.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name != UNFINISHED:
            entry.unlink()
    shutil.rmtree(venv)


@contextlib.contextmanager
def locked(path: Path, waiting_for: str) -> Iterator[int]:
    """Hold a lock file; children that inherit its descriptor hold it, too."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting: {waiting_for}", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()
