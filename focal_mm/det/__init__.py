"""Detection components that MMDetection lacks; needs the ``det`` extra."""

from focal_mm.det.sparse_roi_head import ClippingSparseRoIHead

__all__ = ["ClippingSparseRoIHead"]
