"""Which Pythons serve. Older ones must be able to read this file to say so."""

import shutil
import subprocess

SUPPORTED = ((3, 10), (3, 11), (3, 12))


def python_problem(version: tuple, executable: str) -> str:
    """One line saying why this Python does not serve, or an empty string."""
    if tuple(version[:2]) in SUPPORTED:
        return ""
    names = ["python{}.{}".format(*pair) for pair in reversed(SUPPORTED)]
    found = [name for name in names if runs(name)]
    choice = found[0] if found else "/path/to/python3.11"
    return (
        f"Python {version[0]}.{version[1]} ({executable}) is not supported, "
        f"3.10 to 3.12 are; choose another: make setup PYTHON={choice}"
    )


def runs(name: str) -> bool:
    """Whether a command runs; a name on the PATH may be a shim that does not."""
    if not shutil.which(name):
        return False
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.call([name, "--version"], **quiet) == 0
