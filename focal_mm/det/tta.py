"""Test-time augmentation of detectors that predict masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from mmdet.models import DetTTAModel
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip, bbox_overlaps
from mmdet.structures.mask import encode_mask_results
from mmengine.config import ConfigDict
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from pycocotools import mask as coco_mask
from torch import Tensor, nn

_FLIPPED_AXES = {"horizontal": (1,), "vertical": (0,), "diagonal": (0, 1)}


@MODELS.register_module()
class DetMaskTTAModel(DetTTAModel):
    """Merges boxes and masks that a detector predicts for several views of an image.

    Boxes are merged by NMS, as mmdet's ``DetTTAModel`` merges them. For each box that
    is left, each view votes with the mask of its prediction of the same label that
    overlaps the box most, if it overlaps it enough; the mask is where the mean of the
    votes, weighted by their scores, reaches the threshold. A view without such a
    prediction does not vote. Models without masks give what ``DetTTAModel`` gives.

    Masks of the views are kept as run-length code: a hundred boolean ones for each of
    twenty views of a large photo would take many gigabytes.

    Args:
        module: The detector, or its config. Its predictions must have been rescaled to
            the original image, which is what its ``test_step`` does by default.
        tta_cfg: ``nms``, config of ``mmcv.ops.batched_nms`` (``soft_nms`` included),
            and ``max_per_img``.
        data_preprocessor: Overrides that of ``module``.
        min_overlap: IoU from which on a prediction votes for a box.
        mask_threshold: Mean vote from which on a pixel belongs to the mask.
        size_ranges: Per scale the smallest and largest detections to be taken from it,
            as square root of the box's area in pixels of the resized image; ``None``
            takes all. Views of one scale must follow each other, as those of
            ``TestTimeAug`` do if it resizes before it flips.

    Raises:
        ValueError: If the views of an image are not a multiple of ``size_ranges``.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tta_cfg: dict,
        data_preprocessor: dict | nn.Module | None = None,
        min_overlap: float = 0.7,
        mask_threshold: float = 0.5,
        size_ranges: Sequence[tuple[float, float]] | None = None,
    ) -> None:
        super().__init__(
            tta_cfg=ConfigDict(tta_cfg),
            module=module,
            data_preprocessor=data_preprocessor,
        )
        self.min_overlap = min_overlap
        self.mask_threshold = mask_threshold
        self.size_ranges = size_ranges

    def test_step(self, data: dict[str, list]) -> list[DetDataSample]:
        """Predict all views of a batch of images and merge them.

        Args:
            data: As ``TestTimeAug`` and ``pseudo_collate`` make it: each value is a
                list over views of lists over images.

        Returns:
            A merged prediction per image.
        """
        predictions = []
        for view in range(len(data["inputs"])):
            samples = self.module.test_step(
                {key: value[view] for key, value in data.items()}
            )
            # Now, not when all are there: see the class.
            for sample in samples:
                _encode_masks(sample)
            predictions.append(samples)
        return self.merge_preds(list(zip(*predictions, strict=True)))

    def _merge_single_sample(self, samples: Sequence[DetDataSample]) -> DetDataSample:
        """Merge the predictions for the views of one image.

        Args:
            samples: Per view a sample with ``ori_shape``, ``flip`` and
                ``flip_direction`` (with ``size_ranges``, ``scale_factor`` as well) and
                ``pred_instances``: ``bboxes`` (n, 4), ``scores`` (n,), ``labels`` (n,)
                and, if the model has them, ``masks``: a boolean tensor (n, height,
                width) or a list of n run-length codes.

        Returns:
            The sample of the first view, with the merged ``pred_instances``; ``masks``
            are a boolean tensor (n, height, width).

        Raises:
            TypeError: If masks are of another type.
            ValueError: If masks do not have the size of the original image, or have
                scores of their own (``mask_scores``), which are not merged.
        """
        for view, sample in enumerate(samples):
            _encode_masks(sample)
            self._drop_other_sizes(sample, view, len(samples))
        views = [sample.pred_instances.clone() for sample in samples]
        if not any("masks" in view for view in views):
            return super()._merge_single_sample(samples)
        for view, sample in zip(views, samples, strict=True):
            if sample.flip:
                view.bboxes = bbox_flip(
                    view.bboxes, sample.ori_shape, sample.flip_direction
                )
                view.set_metainfo(dict(axes=_FLIPPED_AXES[sample.flip_direction]))
            sample.pred_instances.pop("masks", None)
        merged = super()._merge_single_sample(samples)
        merged.pred_instances.masks = self._vote(
            merged.pred_instances, views, merged.ori_shape[:2]
        )
        return merged

    def _drop_other_sizes(self, sample: DetDataSample, view: int, views: int) -> None:
        if self.size_ranges is None:
            return
        flips, rest = divmod(views, len(self.size_ranges))
        if rest:
            raise ValueError(
                f"size_ranges has {len(self.size_ranges)} entries, one per scale, but "
                f"tta_pipeline makes {views} views, which is no multiple of it"
            )
        smallest, largest = self.size_ranges[view // flips]
        predicted = sample.pred_instances
        sides = predicted.bboxes[:, 2:] - predicted.bboxes[:, :2]
        sizes = (sides * sides.new_tensor(sample.scale_factor)).prod(1).sqrt()
        sample.pred_instances = predicted[(sizes >= smallest) & (sizes <= largest)]

    def _vote(
        self,
        merged: InstanceData,
        views: Sequence[InstanceData],
        shape: tuple[int, int],
    ) -> Tensor:
        """Masks (n, height, width) of merged boxes."""
        masks = np.zeros((len(merged), *shape), dtype=bool)
        voters = [self._voters(merged, view) for view in views]
        for mask, indices in zip(masks, zip(*voters, strict=True), strict=True):
            total, weights = np.zeros(shape, dtype=np.float32), np.float32(0)
            for view, index in zip(views, indices, strict=True):
                if index is not None:
                    score = np.float32(view.scores[index].item())
                    vote = coco_mask.decode(view.masks[index])
                    total += score * np.flip(vote, view.get("axes", ()))
                    weights += score
            mask[:] = (total >= self.mask_threshold * weights) & (total > 0)
        return torch.from_numpy(masks).to(merged.bboxes.device)

    def _voters(self, merged: InstanceData, view: InstanceData) -> list[int | None]:
        """Per merged box the index of the view's prediction that votes for it."""
        if len(view) == 0:
            return [None] * len(merged)
        overlaps = bbox_overlaps(merged.bboxes, view.bboxes)
        # A box without area overlaps nothing, not even itself.
        same = (merged.bboxes[:, None] == view.bboxes[None]).all(-1)
        overlaps = overlaps.masked_fill(same, 1.0)
        other = merged.labels[:, None] != view.labels[None]
        best, nearest = overlaps.masked_fill(other, -1.0).max(1)
        return [
            index if overlap >= self.min_overlap else None
            for overlap, index in zip(best.tolist(), nearest.tolist(), strict=True)
        ]


def _encode_masks(sample: DetDataSample) -> None:
    """Replace the masks of a sample, if it has any, by their run-length codes."""
    predicted = sample.pred_instances
    if "mask_scores" in predicted:
        raise ValueError(
            "the model scores masks apart from boxes (mask_scores), and such scores "
            "are not merged: test it without test-time augmentation"
        )
    masks = predicted.get("masks")
    if masks is None or isinstance(masks, list):
        return
    if masks.dtype != torch.bool:
        raise TypeError(
            f"masks must be boolean tensors or run-length codes, got {masks.dtype} "
            "(mask_thr_binary of the test_cfg must not be negative)"
        )
    if masks.shape[1:] != tuple(sample.ori_shape[:2]):
        raise ValueError(
            f"masks are {masks.shape[1:]}, but the original image is "
            f"{sample.ori_shape[:2]}: predictions must be rescaled to it"
        )
    predicted.masks = encode_mask_results(masks.cpu().numpy())
