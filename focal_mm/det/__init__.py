"""Detection components that MMDetection lacks; needs the ``det`` extra."""

from focal_mm.det.instaboost import ManyContoursInstaBoost
from focal_mm.det.necks import BiFPN
from focal_mm.det.reppoints_v2 import RepPointsV2, RepPointsV2Head
from focal_mm.det.sparse_roi_head import ClippingSparseRoIHead
from focal_mm.det.tta import DetMaskTTAModel

__all__ = [
    "BiFPN",
    "ClippingSparseRoIHead",
    "DetMaskTTAModel",
    "ManyContoursInstaBoost",
    "RepPointsV2",
    "RepPointsV2Head",
]
