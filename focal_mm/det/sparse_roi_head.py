"""Sparse R-CNN's head with detections that end at the image's border."""

from __future__ import annotations

from mmdet.models.roi_heads import SparseRoIHead
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor


@MODELS.register_module()
class ClippingSparseRoIHead(SparseRoIHead):
    """MMDetection's head, with the clipping that its authors do after the last stage.

    Stages refine boxes without a limit, in training as well: the border is that of
    the results alone.
    """

    def predict_bbox(
        self,
        x: tuple[Tensor, ...],
        batch_img_metas: list[dict],
        rpn_results_list: list[InstanceData],
        rcnn_test_cfg: dict,
        rescale: bool = False,
    ) -> list[InstanceData]:
        """Detect the objects of each image.

        Args:
            x: Feature maps, (N, C, H_i, W_i).
            batch_img_metas: Per image ``img_shape``, ``ori_shape`` (height, width)
                and ``scale_factor``.
            rpn_results_list: Per image the proposals.
            rcnn_test_cfg: ``max_per_img``.
            rescale: Whether boxes are in pixels of the original image.

        Returns:
            Per image ``bboxes`` (n, 4) as x1, y1, x2, y2, ``scores`` and ``labels``.
        """
        results = super().predict_bbox(
            x, batch_img_metas, rpn_results_list, rcnn_test_cfg, rescale
        )
        for result, meta in zip(results, batch_img_metas, strict=True):
            height, width = (meta["ori_shape"] if rescale else meta["img_shape"])[:2]
            result.bboxes[:, 0::2].clamp_(0, width)
            result.bboxes[:, 1::2].clamp_(0, height)
        return results
