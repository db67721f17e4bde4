"""One line for each path that is slower than the usual one."""

from __future__ import annotations

import functools
import logging

_LOGGER = logging.getLogger("focal_mm")
"""PyTorch's users see its warnings on stderr, MMEngine's in their own log
(:mod:`focal_mm.models.log`)."""


@functools.lru_cache(maxsize=64)
def log_once(message: str) -> None:
    """Log a warning, the first time that it comes."""
    _LOGGER.warning(message)
