"""Locks of folders."""

import os
import socket
from contextlib import ExitStack

import pytest

from focal_mm.engine.errors import UserError
from focal_mm.engine.lock import TRAINING_LOCK, hold, holder
from focal_mm.engine.train import _lock


def test_the_second_is_told_who_is_first(tmp_path):
    path = tmp_path / "new" / "lock"
    assert holder(path) is None
    with hold(path):
        name = f"process {os.getpid()} on {socket.gethostname()}, since 2"
        assert holder(path).startswith(name)
        with pytest.raises(UserError, match=f"new is in use by {name}"), hold(path):
            pass
    assert holder(path) is None
    with hold(path):
        pass


def test_who_waits_comes_next(tmp_path):
    first = hold(tmp_path / "lock")
    first.__enter__()
    told = []

    def wait(who: str) -> None:
        told.append(who)
        if len(told) == 2:
            first.__exit__(None, None, None)

    with hold(tmp_path / "lock", wait):
        assert len(told) == 2


def test_a_work_dir_is_trained_in_once_at_a_time(tmp_path):
    with ExitStack() as first, ExitStack() as second:
        _lock(str(tmp_path), first)
        assert holder(tmp_path / TRAINING_LOCK)
        with pytest.raises(UserError, match=f"{tmp_path} is in use by process"):
            _lock(str(tmp_path), second)
