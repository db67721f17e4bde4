"""Any exception of building and running, as one line with the key of the config."""

import logging
import textwrap
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from mmengine.config import Config
from mmengine.logging import MMLogger

from focal_mm.checkpoint.errors import CheckpointError
from focal_mm.engine.config import KEYS, describe, type_name, walk
from focal_mm.engine.errors import UserError

_LONGEST = 400
_WORKER = "in DataLoader worker process"


@contextmanager
def explained(cfg: Config) -> Iterator[None]:
    """Turn whatever is raised within into one line.

    Args:
        cfg: The config that is built or run.

    Raises:
        UserError: In place of every other exception, with the config key of what
            raised it. The log file, where there is one by then, has the traceback.
    """
    try:
        yield
    except (UserError, CheckpointError):
        raise
    except Exception as error:
        log = _log(traceback.format_exc())
        where = f"the traceback is in {log}" if log else "--traceback shows the code"
        raise UserError(f"{explain(error, cfg)} ({where})") from error


def explain(error: Exception, cfg: Config) -> str:
    """One line: config key of what raised an exception, its type and its message."""
    line = describe(error)
    if _WORKER in line:
        # Their traceback is text that ends with what was raised.
        line = " ".join(str(error).strip().splitlines()[-1].split())
    key = config_key(error, cfg)
    return textwrap.shorten(f"{key}: {line}" if key else line, _LONGEST)


def config_key(error: Exception, cfg: Config) -> str:
    """Key of the innermost part of a config that was being built or run; '' if none."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    parts = {name: part for name, part in cfg.items() if name in KEYS}
    nodes = [(key, node) for key, node in walk(parts) if "type" in node]
    for frame in reversed(frames):
        key = _key_of(frame, nodes)
        if key:
            # A loop runs what its loader yields.
            return key.replace("_cfg", "_dataloader") if _is_data(error) else key
    return ""


def _is_data(error: Exception) -> bool:
    return _WORKER in str(error)


def _key_of(frame: FrameType, nodes: list[tuple[str, dict]]) -> str:
    """Key of the node that a frame builds, or of the one that it is a method of."""
    if frame.f_code.co_name.startswith("build_") and "cfg" in frame.f_locals:
        built = frame.f_locals["cfg"]
        if not isinstance(built, dict) or "type" not in built:
            return ""
        kind = built["type"]
    else:
        built, kind = {}, type(frame.f_locals.get("self"))
    # Several parts may be of one type: that which has the most in common with it.
    matches = {
        key: sum(_equal(value, built.get(name)) for name, value in node.items())
        for key, node in nodes
        if type_name(node["type"]) == type_name(kind)
    }
    return max(matches, key=matches.__getitem__, default="")


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, TypeError, RuntimeError):
        # Arrays compare by element.
        return False


def _log(text: str) -> Path | None:
    """Append to the log file, past the console; returns its path, if there is one."""
    if not MMLogger._instance_dict:
        return None
    logger = MMLogger.get_current_instance()
    record = logger.makeRecord(logger.name, logging.ERROR, "", 0, text, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
            return Path(handler.baseFilename)
    return None
