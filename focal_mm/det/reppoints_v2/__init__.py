"""RepPoints V2: Verification Meets Regression for Object Detection (arXiv 2007.08508).

See ``docs/reppointsv2.md``.
"""

from focal_mm.det.reppoints_v2.detector import RepPointsV2
from focal_mm.det.reppoints_v2.head import RepPointsV2Head

__all__ = ["RepPointsV2", "RepPointsV2Head"]
