"""Errors that the person at the command line can put right."""

import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable

from torch import distributed as dist

from focal_mm.checkpoint.errors import CheckpointError

PATIENCE = 60
"""Seconds in which a launcher ends processes after the first one has failed."""


STOPPED = 128 + signal.SIGTERM
"""Exit code of a training that was stopped and can be resumed."""

LOST_PATIENCE = 5
"""Seconds that a process waits which another one of its run has left."""

LOST = os.EX_TEMPFAIL
"""Exit code of a process that another one of its run has left, which may be tried
again, as ``tools/_torchrun.py`` does."""


class UserError(Exception):
    """What is wrong, where, and what to do about it, in one line."""


class StoppedError(Exception):
    """SIGTERM has ended a training in good order; says how to go on."""


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
        The exit code: the action's or 0, 1 after a UserError or CheckpointError, 130
        if it was stopped, :data:`STOPPED` and :data:`LOST`.
    """
    if catch_sigterm:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return action() or 0
    except (UserError, CheckpointError) as error:
        if show_traceback:
            traceback.print_exc()
        say(f"{program}: {error}")
        return 1
    except StoppedError as error:
        if speaks():
            print(f"{program}: {error}", file=sys.stderr)
        return STOPPED
    except RuntimeError as error:
        if not _has_lost_others(error):
            raise
        reason = str(error).splitlines()[0]
        print(f"{program}: another process has ended: {reason}", file=sys.stderr)
        # The launcher is to see that one first, which may have said why.
        time.sleep(LOST_PATIENCE)
        return LOST
    except KeyboardInterrupt:
        if speaks():
            print(f"{program}: {stopped}", file=sys.stderr)
        return 130
    finally:
        if catch_sigterm:
            signal.signal(signal.SIGTERM, before)


def _has_lost_others(error: RuntimeError) -> bool:
    # gloo has no class of its own for it.
    is_gloo = re.search(r"gloo.*(closed|reset) by peer", str(error), re.DOTALL)
    return bool(is_gloo) or isinstance(error, dist.DistBackendError)
