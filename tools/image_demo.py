"""Draw predictions: ``python tools/image_demo.py INPUT... --config --checkpoint``."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
if (ROOT / "focal_mm").is_dir():
    # A clone runs its own code, installed or not.
    sys.path.insert(0, str(ROOT))

try:
    from focal_mm.engine.image_demo import main
except ModuleNotFoundError as error:
    sys.exit(f"image_demo.py: {error} (this is {sys.executable})")

if __name__ == "__main__":
    sys.exit(main())
