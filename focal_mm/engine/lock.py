"""Locks of folders that two processes must not write to at once."""

import fcntl
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from focal_mm.engine.errors import UserError

TRAINING_LOCK = ".training.lock"
"""File that a training locks in its work dir, however it was started."""

_SECONDS_BETWEEN_TRIES = 0.5


@contextmanager
def hold(
    path: Path, wait: Callable[[str], None] | None = None, stay: bool = True
) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends.

    Args:
        path: File of the lock, in the folder that it protects; made where missing and
            left behind. It names the holder.
        wait: If another process has it, this is told the holder, again and again until
            the lock is free; it may raise.
        stay: Whether to hold it within the block; if not, only to wait until it is
            free.

    Raises:
        UserError: If another process has it and ``wait`` is None, or if the file
            cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    with file:
        _acquire(file.fileno(), path, wait)
        if not stay:
            fcntl.flock(file, fcntl.LOCK_UN)
            yield
            return
        file.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        print(
            f"process {os.getpid()} on {socket.gethostname()}, since {since}", file=file
        )
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def holder(path: Path) -> str | None:
    """Who holds a lock; None if nobody does."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named_in(path)
    except OSError:
        return None
    return None


def _acquire(file: int, path: Path, wait: Callable[[str], None] | None) -> None:
    for attempt in itertools.count():
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            # The first time it may be somebody who only looks, by holder().
            if attempt and wait is None:
                raise UserError(
                    f"{path.parent} is in use by {_named_in(path)}: wait for it or end "
                    "it"
                ) from None
        except OSError as error:
            # Some network file systems have no locks.
            print(f"{path}: this file system cannot lock ({error.strerror})")
            return
        if wait is not None:
            wait(_named_in(path))
        time.sleep(_SECONDS_BETWEEN_TRIES)


def _named_in(path: Path) -> str:
    return path.read_text().strip() or "another process"
