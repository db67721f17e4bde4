"""The head of RepPoints V2: points regress boxes, two branches verify them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmcv.cnn import ConvModule
from mmcv.ops import DeformConv2d
from mmdet.models.dense_heads import RepPointsHead
from mmdet.models.losses import QualityFocalLoss
from mmdet.structures.bbox import bbox_overlaps
from mmdet.utils import reduce_mean
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from focal_mm.det.reppoints_v2.branches import (
    CornerBranch,
    ForegroundBranch,
    with_prior,
)
from focal_mm.det.reppoints_v2.refinement import refine_boxes
from focal_mm.det.reppoints_v2.targets import (
    Size,
    assign,
    corner_targets,
    foreground_targets,
)

Levels = Sequence[Tensor]
"""One map (B, C, H_i, W_i) of each level, the finest first."""


@MODELS.register_module()
class RepPointsV2Head(RepPointsHead):
    """Head of RepPoints V2 (arXiv 2007.08508, section 3).

    To MMDetection's RepPoints it adds the verification of corners and of the
    foreground (section 3.2), whose results go back into the features and, at test time,
    into the boxes (section 3.3, feature enhancement and joint inference). The first two
    points of a set are the corners of its box (section 3.4, "explicit corners").

    ``train_cfg`` holds the assigners ``init.assigner`` and ``refine.assigner``, and
    ``corner.min_iou``, from which the Gaussians of the corners have their size.
    ``test_cfg`` has, besides what post-processing needs, ``joint_inference``, on by
    default.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of the neck's maps.
        loss_cls: Quality focal loss, or one that wants labels only.
        loss_bbox_init: Loss of the first boxes.
        loss_bbox_refine: Loss of the refined boxes.
        loss_heatmap: Loss of the probability of corners.
        loss_offset: Loss of the offsets of corners.
        loss_foreground: Loss of the foreground's logits, with weights.
        num_shared_convs: Convolutions of the verification branches, on top of those of
            the regression.
        corner_channels: Channels of the corner pooling.
        **kwargs: See :class:`mmdet.models.RepPointsHead`, which refuses others; the way
            from points to boxes is fixed.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int,
        loss_cls: dict,
        loss_bbox_init: dict,
        loss_bbox_refine: dict,
        loss_heatmap: dict,
        loss_offset: dict,
        loss_foreground: dict,
        num_shared_convs: int = 1,
        corner_channels: int = 64,
        **kwargs: Any,
    ) -> None:
        self.num_shared_convs = num_shared_convs
        self.corner_channels = corner_channels
        kwargs.setdefault("init_cfg", with_prior("reppoints_cls_out"))
        super().__init__(
            num_classes=num_classes,
            in_channels=in_channels,
            loss_cls=loss_cls,
            loss_bbox_init=loss_bbox_init,
            loss_bbox_refine=loss_bbox_refine,
            use_grid_points=False,
            center_init=True,
            transform_method="minmax",
            **kwargs,
        )
        self.loss_heatmap = MODELS.build(loss_heatmap)
        self.loss_offset = MODELS.build(loss_offset)
        self.loss_foreground = MODELS.build(loss_foreground)

    def _init_layers(self) -> None:
        super()._init_layers()
        channels = self.feat_channels
        self.shared_convs = nn.Sequential(
            *(
                ConvModule(channels, channels, 3, padding=1, norm_cfg=self.norm_cfg)
                for _ in range(self.num_shared_convs)
            )
        )
        self.corner_branch = CornerBranch(channels, self.corner_channels, self.norm_cfg)
        self.foreground_branch = ForegroundBranch(
            channels, self.num_classes, self.norm_cfg
        )
        # With two scores and four offsets of corners.
        for name in ("reppoints_cls_conv", "reppoints_pts_refine_conv"):
            conv = DeformConv2d(
                channels + 6,
                self.point_feat_channels,
                self.dcn_kernel,
                padding=self.dcn_pad,
            )
            setattr(self, name, conv)

    def points2bbox(self, pts: Tensor, y_first: bool = True) -> Tensor:
        """Boxes (N, 4, ...) of the first two of n points (N, 2 n, ...); equation 3."""
        return pts[:, [1, 0, 3, 2]] if y_first else pts[:, :4]

    def forward_single(self, x: Tensor) -> tuple[Tensor, ...]:
        """Forward one level.

        Args:
            x: Features (B, C, H, W).

        Returns:
            In units of the stride, relative to the point, and as logits. In training:
            class logits (B, classes, H, W), first and refined points (B, 2 n, H, W; y,
            x of each), logits (B, 2, H, W) and offsets (B, 4, H, W) of corners,
            logits of the foreground (B, classes, H, W). Else: class logits, boxes
            (B, 4, H, W), and those of the corners.
        """
        cls_feat = pts_feat = x
        for conv in self.cls_convs:
            cls_feat = conv(cls_feat)
        for conv in self.reg_convs:
            pts_feat = conv(pts_feat)
        shared = self.shared_convs(pts_feat)
        foreground, embedding = self.foreground_branch(shared)
        scores, offsets = self.corner_branch(shared + embedding)
        pts_feat = pts_feat + embedding
        pts_init = self.reppoints_pts_init_out(
            self.relu(self.reppoints_pts_init_conv(pts_feat))
        )

        # The classification and the refinement move the first points but little.
        share = self.gradient_mul
        kernel = (1 - share) * pts_init.detach() + share * pts_init
        kernel = kernel - self.dcn_base_offset.type_as(x)
        # Not detached, unlike in section 3.3: nor are they in its authors' code.
        cls_feat = torch.cat([cls_feat + embedding, scores, offsets], 1)
        pts_feat = torch.cat([pts_feat, scores, offsets], 1)
        cls_score = self.reppoints_cls_out(
            _deform(self.reppoints_cls_conv, cls_feat, kernel).relu()
        )
        pts_refine = pts_init.detach() + self.reppoints_pts_refine_out(
            _deform(self.reppoints_pts_refine_conv, pts_feat, kernel).relu()
        )
        if self.training:
            return cls_score, pts_init, pts_refine, scores, offsets, foreground
        return cls_score, self.points2bbox(pts_refine), scores, offsets

    def loss_by_feat(
        self,
        cls_scores: Levels,
        pts_init: Levels,
        pts_refine: Levels,
        corner_scores: Levels,
        corner_offsets: Levels,
        foreground: Levels,
        batch_gt_instances: list[InstanceData],
        batch_img_metas: list[dict],
        batch_gt_instances_ignore: list[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """Losses of a batch; see :meth:`forward_single` for the first six arguments.

        Args:
            cls_scores: Class logits.
            pts_init: First points.
            pts_refine: Refined points.
            corner_scores: Logits of corners.
            corner_offsets: Offsets of corners.
            foreground: Logits of the foreground.
            batch_gt_instances: The objects of each image: ``bboxes``, ``labels`` and,
                where the data have them, ``masks``.
            batch_img_metas: Meta data of each image.
            batch_gt_instances_ignore: Objects to be ignored.

        Returns:
            Scalars by name.
        """
        sizes = [tuple(level.shape[2:]) for level in cls_scores]
        levels, flags = self.get_points(sizes, batch_img_metas, cls_scores[0].device)
        points = torch.cat(levels[0])
        valid = torch.stack([torch.cat(image) for image in flags])
        gts = batch_gt_instances
        ignored = batch_gt_instances_ignore or [None] * len(gts)
        boxes = [self._decode(level, points) for level in (pts_init, pts_refine)]
        corners = (flatten(corner_scores), flatten(corner_offsets))
        return {
            **self._detection_losses(
                flatten(cls_scores), *boxes, points, sizes, valid, gts, ignored
            ),
            **self._corner_losses(*corners, sizes, valid, gts),
            "loss_foreground": self._foreground_loss(
                flatten(foreground), sizes[0], gts
            ),
        }

    def _decode(self, levels: Levels, points: Tensor) -> Tensor:
        """Boxes (B, P, 4) in pixels of sets in units of the stride around points."""
        boxes = flatten([self.points2bbox(level.float()) for level in levels])
        return boxes * points[:, 2:3] + points[:, [0, 1, 0, 1]]

    def _detection_losses(
        self,
        cls_scores: Tensor,
        boxes_init: Tensor,
        boxes_refine: Tensor,
        points: Tensor,
        sizes: list[Size],
        valid: Tensor,
        gts: list[InstanceData],
        ignored: Sequence[InstanceData | None],
    ) -> dict[str, Tensor]:
        """Of class logits (B, P, C), first and refined boxes (B, P, 4)."""
        numbers = [height * width for height, width in sizes]
        targets: tuple[list[Tensor], list[Tensor]] = ([], [])
        for gt, skip, flags, first in zip(
            gts, ignored, valid, boxes_init.detach(), strict=True
        ):
            for found, assigner, candidates in zip(
                targets,
                (self.init_assigner, self.refine_assigner),
                (points[:, :3], first),
                strict=True,
            ):
                assigned = assign(assigner, candidates, flags, numbers, gt, skip)
                found.append(_gather(assigned, gt, self.num_classes))
        init, refine = map(torch.cat, targets)

        is_init, is_refine = (t[:, 5] > 0 for t in (init, refine))
        num_init, num_refine = _mean_over_processes(is_init.sum(), is_refine.sum())
        boxes = boxes_refine.flatten(0, 1)
        labels: Any = refine[:, 4].long()
        if isinstance(self.loss_cls, QualityFocalLoss):
            quality = bbox_overlaps(boxes.detach(), refine[:, :4], is_aligned=True)
            labels = (labels, quality * is_refine)
        return dict(
            loss_cls=self.loss_cls(
                cls_scores.flatten(0, 1),
                labels,
                (refine[:, 5] >= 0).float(),
                avg_factor=num_refine,
            ),
            loss_pts_init=self.loss_bbox_init(
                self._with_last_unit(boxes_init.flatten(0, 1), points),
                self._with_last_unit(init[:, :4], points),
                is_init.float(),
                avg_factor=num_init,
            ),
            loss_pts_refine=self.loss_bbox_refine(
                self._with_last_unit(boxes, points),
                self._with_last_unit(refine[:, :4], points),
                is_refine.float(),
                avg_factor=num_refine,
            ),
        )

    def _with_last_unit(self, boxes: Tensor, points: Tensor) -> Tensor:
        """Boxes (B * P, 4) in units of ``point_base_scale`` strides, one unit larger.

        So the losses of the public implementations see them, which count the pixel at
        the lower right in, but after this scaling. GIoU moves also the empty boxes with
        which training begins.
        """
        unit = self.point_base_scale * points[:, 2:3]
        scaled = boxes.unflatten(0, (-1, len(points))) / unit
        return (scaled + boxes.new_tensor([0, 0, 1, 1])).flatten(0, 1)

    def _corner_losses(
        self,
        scores: Tensor,
        offsets: Tensor,
        sizes: list[Size],
        valid: Tensor,
        gts: list[InstanceData],
    ) -> dict[str, Tensor]:
        """Of logits (B, P, 2) and offsets (B, P, 4)."""
        min_iou = self.train_cfg["corner"]["min_iou"]
        flags = valid.split([height * width for height, width in sizes], 1)
        levels = []
        for size, stride, level in zip(sizes, self.point_strides, flags, strict=True):
            images = [
                corner_targets(
                    gt.bboxes, size, _extent(flag.view(size)), stride, min_iou
                )
                for gt, flag in zip(gts, level, strict=True)
            ]
            levels.append([torch.stack(kind) for kind in zip(*images, strict=True)])
        heatmap, shifts, is_corner = map(flatten, zip(*levels, strict=True))
        (number,) = _mean_over_processes(is_corner.sum())
        weight = valid[..., None].expand_as(heatmap).float()
        return dict(
            loss_heatmap=self.loss_heatmap(
                scores.sigmoid(), heatmap, weight=weight, avg_factor=number
            ),
            loss_offset=self.loss_offset(
                offsets,
                shifts,
                is_corner.repeat_interleave(2, -1),
                avg_factor=number,
            ),
        )

    def _foreground_loss(
        self, logits: Tensor, size: Size, gts: list[InstanceData]
    ) -> Tensor:
        """Of logits (B, P, C): normalised focal loss (appendix A.2, equation 9).

        Positives are weighted by 1 / area; divided by their mean, these weights make
        the sums over positives and over negatives have one divisor.
        """
        finest = self.point_strides[0]
        maps = []
        for gt in gts:
            masks = None
            if "masks" in gt:
                masks = gt.masks.to_tensor(torch.bool, logits.device)
            maps.append(
                foreground_targets(
                    gt.bboxes, gt.labels, self.num_classes, size, finest, masks
                )
            )
        # The points of coarser levels are points of the finest.
        steps = [stride // finest for stride in self.point_strides]
        weight = flatten([torch.stack(maps)[:, :, ::step, ::step] for step in steps])
        target = weight > 0
        (number,) = _mean_over_processes(target.sum())
        total = reduce_mean(weight.sum()).clamp(min=torch.finfo(weight.dtype).tiny)
        weight = torch.where(target, weight * (number / total), 1)
        return self.loss_foreground(
            logits.flatten(0, 1),
            target.float().flatten(0, 1),
            weight.flatten(0, 1),
            avg_factor=number,
        )

    def predict_by_feat(
        self,
        cls_scores: Levels,
        bbox_preds: Levels,
        corner_scores: Levels,
        corner_offsets: Levels,
        batch_img_metas: list[dict],
        cfg: dict | None = None,
        rescale: bool = False,
        with_nms: bool = True,
    ) -> list[InstanceData]:
        """Detect objects; see :meth:`forward_single` for the first four arguments.

        Args:
            cls_scores: Class logits.
            bbox_preds: Boxes.
            corner_scores: Logits of corners.
            corner_offsets: Offsets of corners.
            batch_img_metas: Meta data of each image.
            cfg: Instead of ``test_cfg``.
            rescale: Boxes in the image's original size.
            with_nms: Suppress duplicates.

        Returns:
            ``bboxes``, ``scores`` and ``labels`` of each image.
        """
        config = self.test_cfg if cfg is None else cfg
        if config.get("joint_inference", True):
            shapes = [meta["img_shape"][:2] for meta in batch_img_metas]
            bbox_preds = self._joint_inference(
                bbox_preds, corner_scores, corner_offsets, shapes
            )
        return super().predict_by_feat(
            cls_scores,
            bbox_preds,
            batch_img_metas=batch_img_metas,
            cfg=cfg,
            rescale=rescale,
            with_nms=with_nms,
        )

    def _joint_inference(
        self,
        bbox_preds: Levels,
        corner_scores: Levels,
        corner_offsets: Levels,
        img_shapes: Sequence[Size],
    ) -> list[Tensor]:
        """Refine the boxes of all levels but the finest (section 3.3, equation 2).

        P4 and P5 take the corners of P3, P6 and P7 those of P4.
        """
        refined = [bbox_preds[0]]
        for level in range(1, len(bbox_preds)):
            finer = (level - 1) // 2
            boxes, stride = bbox_preds[level].float(), self.point_strides[level]
            points = self.prior_generator.single_level_grid_priors(
                boxes.shape[2:], level, device=boxes.device
            ).repeat(1, 2)
            limit = boxes.new_tensor([(w, h, w, h) for h, w in img_shapes])
            boxes = boxes.flatten(2).transpose(1, 2) * stride + points
            boxes = refine_boxes(
                boxes.clamp(min=0).minimum(limit[:, None]),
                corner_scores[finer].float(),
                corner_offsets[finer].float(),
                self.point_strides[finer],
            )
            boxes = (boxes - points) / stride
            refined.append(boxes.transpose(1, 2).view_as(bbox_preds[level]))
        return refined


def _deform(conv: DeformConv2d, x: Tensor, offsets: Tensor) -> Tensor:
    """Deformable convolution, which MMCV has not in bfloat16: that in float32."""
    if offsets.dtype != torch.bfloat16:
        return conv(x, offsets)
    return conv(x.float(), offsets.float()).to(x.dtype)


def flatten(levels: Levels) -> Tensor:
    """Concatenate maps (B, C, H_i, W_i) to float32 (B, P, C), P = sum of H_i W_i."""
    return torch.cat([level.flatten(2).transpose(1, 2) for level in levels], 1).float()


def _gather(assigned: Tensor, gt: InstanceData, background: int) -> Tensor:
    """(P, 6): box, label and, as :func:`targets.assign` has it, number of an object."""
    objects = torch.cat([gt.bboxes, gt.labels[:, None]], 1).float()
    none = objects.new_tensor([[0, 0, 0, 0, background]])
    targets = torch.cat([none, objects])[assigned.clamp(min=0)]
    return torch.cat([targets, assigned[:, None]], 1)


def _extent(valid: Tensor) -> Size:
    """Height and width of the part of (H, W) that is true, at its upper left."""
    return int(valid[:, 0].sum()), int(valid[0].sum())


def _mean_over_processes(*numbers: Tensor) -> list[Tensor]:
    """Means of counts over all processes, at least 1 each."""
    return list(reduce_mean(torch.stack(numbers).float()).clamp(min=1))
