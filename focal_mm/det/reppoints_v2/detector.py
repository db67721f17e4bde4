"""The detector's name; all that is its own is in the head."""

from __future__ import annotations

from mmdet.models.detectors import SingleStageDetector
from mmengine.registry import MODELS


@MODELS.register_module()
class RepPointsV2(SingleStageDetector):
    """RepPoints V2 (arXiv 2007.08508): backbone, neck and ``RepPointsV2Head``."""
