"""Errors that the person at the command line can put right."""

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable

from focal_mm.checkpoint.errors import CheckpointError

PATIENCE = 60
"""Seconds in which a launcher ends processes after the first one has failed."""


LOST_PATIENCE = 5
"""Seconds that a process waits which another one of its run has left."""


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line.

    Attributes:
        code: Exit code of the command line.
    """

    code = 1


class StoppedError(UserError):
    """SIGTERM has ended a training in good order; says how to go on."""

    code = 128 + signal.SIGTERM


class LostError(UserError):
    """Another process of the run has ended.

    ``tools/_torchrun.py`` knows the code and starts all of them again.
    """

    code = os.EX_TEMPFAIL


def speaks() -> bool:
    """Whether this is the only or the first process of a run on this machine."""
    ranks = (os.environ.get(name, "0") for name in ("LOCAL_RANK", "SLURM_LOCALID"))
    return set(ranks) == {"0"}


def say(line: str) -> None:
    """Print an error that ends this process, once for all processes on a machine.

    The launcher ends the others as soon as the first has spoken and gone. They wait for
    that, lest they end it before; what it has not found wrong they say then.
    """
    if not speaks():
        time.sleep(PATIENCE)
    print(line, file=sys.stderr)


def run_guarded(
    program: str,
    action: Callable[[], int | None],
    stopped: str = "stopped by the user",
    catch_sigterm: bool = True,
    show_traceback: bool = False,
) -> int:
    """Run what a command line does; what its user can put right becomes one line.

    Args:
        program: Name at the beginning of the line.
        action: The work; what it returns is the exit code.
        stopped: What to say if the user stops it.
        catch_sigterm: Whether SIGTERM stops it as Ctrl-C does, so that it cleans up.
            Without, it ends at once, even while it waits for other processes.
        show_traceback: Whether to print where an error comes from before its line.

    Returns:
        The exit code: the action's or 0, that of a UserError, 1 after a
        CheckpointError, 130 if it was stopped.
    """
    if catch_sigterm:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return action() or 0
    except StoppedError as error:
        if speaks():
            print(f"{program}: {error}", file=sys.stderr)
        return error.code
    except LostError as error:
        print(f"{program}: {error}", file=sys.stderr)
        # The launcher is to see the other one first, which may have said why.
        time.sleep(LOST_PATIENCE)
        return error.code
    except (UserError, CheckpointError) as error:
        if show_traceback:
            traceback.print_exc()
        say(f"{program}: {error}")
        return UserError.code
    except KeyboardInterrupt:
        if speaks():
            print(f"{program}: {stopped}", file=sys.stderr)
        return 130
    finally:
        if catch_sigterm:
            signal.signal(signal.SIGTERM, before)
