"""Make the project's ``.venv`` from the pinned versions; compile mmcv only once.

``make setup`` calls this. It needs a Python from 3.10 to 3.12 and its standard library.
The compiled mmcv wheel is kept in ``${XDG_CACHE_HOME:-~/.cache}/focal_mm``. Settings
from the environment: ``FOCAL_MM_CPU_ONLY=1`` leaves mmcv's CUDA operators out where
there is a GPU; ``FORCE_CUDA=1`` (and ``TORCH_CUDA_ARCH_LIST``) builds them where there
is none, as on a cluster's login node; ``MAX_JOBS`` bounds the compile.
"""

import argparse
import os
import platform
import signal
import sys

from setup_support.pythons import python_problem


def main() -> int:
    problem = python_problem(sys.version_info, sys.executable)
    if problem:
        return fail(problem)
    # Only now: an older Python could not even read these.
    from setup_support.plan import SetupError
    from setup_support.steps import Stopped, set_up, stop_on_signals

    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--this-python",
        action="store_true",
        help="make .venv anew if it has another Python than the one that runs this",
    )
    args = parser.parse_args()
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    stop_on_signals()
    try:
        set_up(root, platform.python_version() if args.this_python else None)
    except Stopped as stop:
        fail(f"{signal.Signals(stop.signum).name} received, nothing unfinished is left")
        return 128 + stop.signum
    except (SetupError, OSError) as error:
        return fail(str(error))
    return 0


def fail(line: str) -> int:
    sys.stdout.flush()
    print("set-up stopped: " + line, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
