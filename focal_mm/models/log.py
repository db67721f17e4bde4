"""Bringing the lines of the ops, which do not know MMEngine, into MMEngine's log."""

from __future__ import annotations

import logging

from mmengine.logging import print_log


class _MMEngineHandler(logging.Handler):
    """Hands records to the logger that MMEngine currently writes to."""

    def emit(self, record: logging.LogRecord) -> None:
        print_log(self.format(record), logger="current", level=record.levelno)


def forward_to_mmengine() -> None:
    """Forward all that is logged under ``focal_mm``."""
    logging.getLogger("focal_mm").addHandler(_MMEngineHandler())
