"""Test a model: ``python tools/test.py CONFIG CHECKPOINT``; more by ``--help``."""

import sys

from focal_mm.engine.test import main

if __name__ == "__main__":
    sys.exit(main())
