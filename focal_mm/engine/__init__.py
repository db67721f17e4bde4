"""Glue between the command lines and MMEngine.

``train.py`` and ``test.py`` parse (``options.py``), load (``config.py``), adapt the
config to the arguments, join the other processes (``launch.py``), check (``checks/``)
and build a Runner. What they must know of a task library is in ``libraries.py``.
"""

from focal_mm.engine.errors import UserError

__all__ = ["UserError"]
