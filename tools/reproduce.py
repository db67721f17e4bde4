"""Reproduce the tables: ``python tools/reproduce.py COMMAND``; more by ``--help``."""

import sys
from pathlib import Path

from focal_mm.engine.ledger.command_line import main

if __name__ == "__main__":
    sys.exit(main(Path(__file__).resolve().parents[1]))
