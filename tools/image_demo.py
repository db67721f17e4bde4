"""Draw predictions: ``python tools/image_demo.py INPUT... --config --checkpoint``."""

import sys

from focal_mm.engine.infer import main

if __name__ == "__main__":
    sys.exit(main())
