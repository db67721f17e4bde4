"""What ``tools/image_demo.py`` does: pictures and videos with predictions drawn."""

from focal_mm.engine.image_demo.main import main

__all__ = ["main"]
