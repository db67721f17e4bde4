"""Train a model: ``python tools/train.py CONFIG``; more by ``--help``."""

import sys

from focal_mm.engine.train import main

if __name__ == "__main__":
    sys.exit(main())
