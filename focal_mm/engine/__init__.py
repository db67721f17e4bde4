"""Glue between the command lines and MMEngine.

``train.py`` and ``test.py`` parse (``options.py``), load (``config.py``), adapt the
config to the arguments, join the other processes (``launch.py``), check
(``checks/``), find where a training starts (``resume.py``) and build a Runner
(``runner.py``). What they must know of a task library is in ``libraries.py``.
"""

from focal_mm.engine.errors import UserError

__all__ = ["UserError"]
