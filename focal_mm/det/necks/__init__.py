"""Necks that MMDetection lacks."""

from focal_mm.det.necks.bifpn import BiFPN

__all__ = ["BiFPN"]
