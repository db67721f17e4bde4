"""Train a model: ``python tools/train.py CONFIG``; more by ``--help``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

try:
    from focal_mm.engine.main import train
except ModuleNotFoundError as error:
    sys.exit(f"train.py: {error} (this is {sys.executable})")

if __name__ == "__main__":
    sys.exit(train())
