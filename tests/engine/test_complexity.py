"""FLOPs against hand counts, PyTorch's own counter, and the paper's tables."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from focal_mm import FocalTransformer
from focal_mm.engine import complexity
from focal_mm.engine.complexity import measure
from focal_mm.engine.errors import UserError
from focal_mm.engine.libraries import library_of

ROOT = Path(__file__).parents[2]
DET = ROOT / "configs/det"
SMALL = dict(embed_dims=16, depths=(2, 1, 1, 1), num_heads=(1, 2, 4, 8))
CHANNELS = [16, 32, 64, 128]


def classifier(**backbone: object) -> Config:
    return Config(
        dict(
            default_scope="mmpretrain",
            model=dict(
                type="ImageClassifier",
                backbone=dict(type="FocalTransformer", arch=SMALL, **backbone),
            ),
        )
    )


def detector(name: str) -> Config:
    """A row of the suite with a small backbone."""
    cfg = Config.fromfile(DET / f"{name}.py")
    cfg.model.backbone.arch = SMALL
    cfg.model.neck.in_channels = CHANNELS
    return cfg


class TestCounting:
    @pytest.mark.parametrize("shape", [(112, 112), (75, 131)])
    def test_is_pytorchs(self, shape):
        """PyTorch's counter on the real computation counts twice as much."""
        found = measure(classifier(), shape)
        model = FocalTransformer(arch=SMALL, attn_backend="sdpa").eval()
        # Its counter does not know the CPU's fused attention.
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            # A hooked qkv computes the queries of pooled tokens too.
            counter.mod_tracker.__exit__(None, None, None)
            model(torch.zeros(1, 3, *shape))
        assert 2 * found.flops == counter.get_total_flops()
        assert found.params == sum(p.numel() for p in model.parameters())

    def test_attention_by_hand(self):
        """169 keys of the fine level and 7² of the coarse one for every query."""
        found = measure(classifier(out_indices=(0,)), (56, 56))
        tokens, channels, blocks = 14 * 14, 16, 2
        attention = 2 * tokens * (13**2 + 7**2) * channels
        pooling = tokens * channels
        assert found.product_flops == blocks * (attention + pooling)

    def test_does_not_depend_on_the_backend(self):
        counts = {
            measure(classifier(attn_backend=backend), (112, 112)).flops
            for backend in ("auto", "naive", "sdpa")
        }
        assert len(counts) == 1

    def test_needs_no_weights(self):
        init_cfg = dict(type="Pretrained", checkpoint="gone.pth")
        measure(classifier(init_cfg=init_cfg), (56, 56))

    @pytest.mark.parametrize(("kind", "offsets"), [("DCN", 18), ("DCNv2", 27)])
    def test_deformable_convolutions(self, kind, offsets):
        """Plain ones' cost, and that of the offsets and masks of their nine points."""

        def flops(dcn: dict | None) -> int:
            cfg = detector("retinanet_focal_tiny_3x")
            stages = (False, False, False, True)
            cfg.model.backbone = dict(
                type="ResNet", depth=50, dcn=dcn, stage_with_dcn=stages
            )
            cfg.model.neck.in_channels = [256, 512, 1024, 2048]
            return measure(cfg, (64, 96)).flops

        blocks, pixels = 3, 2 * 3
        deformable = flops(dict(type=kind, deform_groups=1))
        assert deformable - flops(None) == blocks * pixels * 9 * 512 * offsets

    def test_multihead_attention_by_hand(self):
        """PyTorch's has an operator for inference that its counter does not know."""
        tokens, channels = 5, 8
        layer = nn.MultiheadAttention(channels, 2, batch_first=True).eval()
        x = torch.zeros(1, tokens, channels)
        complexity._prepare(layer)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            layer(x, x, x)
        multiply_adds = 4 * tokens * channels**2 + 2 * tokens**2 * channels
        assert counter.get_total_flops() == 2 * multiply_adds


class TestDetectors:
    def test_figures_of_the_page(self):
        found = measure(Config.fromfile(DET / "mask_rcnn_focal_tiny_3x.py"))
        figures = f"{found.params / 1e6:.2f} M, {found.flops / 1e9:.1f} G"
        page = (ROOT / "docs/complexity.md").read_text()
        assert f"| Mask R-CNN, Tiny | 48.8 M, 291 G | {figures} |" in page

    def test_regions_do_not_depend_on_the_image(self):
        cfg = detector("mask_rcnn_focal_tiny_3x")
        rows = [measure(cfg, shape).parts for shape in ((64, 64), (96, 160))]
        boxes, masks = "roi_head.bbox_head", "roi_head.mask_head"
        box_head = 256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320)
        mask_head = 14**2 * (4 * 9 * 256**2 + 4 * 256**2) + 28**2 * 256 * 80
        for parts in rows:
            assert parts[boxes].flops == 1000 * box_head
            assert parts[masks].flops == 100 * mask_head
        assert rows[0]["rpn_head"].flops < rows[1]["rpn_head"].flops

    def test_parts_add_up(self):
        found = measure(detector("cascade_mask_rcnn_focal_tiny_3x"), (64, 64))
        assert sum(part.flops for part in found.parts.values()) == found.flops
        assert sum(part.params for part in found.parts.values()) == found.params
        assert all(part.flops for part in found.parts.values())

    def test_every_stage_of_a_cascade(self):
        one = measure(detector("mask_rcnn_focal_tiny_3x"), (64, 64)).parts
        three = measure(detector("cascade_mask_rcnn_focal_tiny_3x"), (64, 64)).parts
        name = "roi_head.mask_head"
        assert three[name].flops == 3 * one[name].flops
        assert three[name].params == 3 * one[name].params

    def test_products_of_sparse_rcnn(self):
        """Attention between its 300 proposals, and a dynamic convolution of each."""
        sparse, plain = (
            measure(detector(name), (64, 64)).product_flops
            for name in ("sparse_rcnn_focal_tiny_3x", "mask_rcnn_focal_tiny_3x")
        )
        stages, proposals, channels = 6, 300, 256
        attention = 2 * proposals**2 * channels
        convolution = 2 * proposals * 7**2 * channels * 64
        assert sparse - plain == stages * (attention + convolution)


class TestShape:
    def shape(self, scope: str, **transform: object) -> tuple[int, int]:
        pipeline = [dict(type="LoadImageFromFile"), dict(**transform)]
        dataset = dict(type="RepeatDataset", dataset=dict(pipeline=pipeline))
        cfg = Config(dict(default_scope=scope, train_dataloader=dict(dataset=dataset)))
        return library_of(cfg).table_shape(cfg)

    def test_detection(self):
        assert self.shape("mmdet") == (800, 1280)

    @pytest.mark.parametrize("side", [512, 640])
    def test_segmentation(self, side):
        crop = dict(type="RandomCrop", crop_size=(side, side))
        assert self.shape("mmseg", **crop) == (side, 4 * side)

    @pytest.mark.parametrize("scale", [384, (384, 384)])
    def test_classification(self, scale):
        crop = dict(type="mmpretrain.RandomResizedCrop", scale=scale)
        assert self.shape("mmpretrain", **crop) == (384, 384)

    def test_no_crop(self):
        with pytest.raises(UserError, match="no RandomCrop"):
            self.shape("mmseg", type="RandomFlip")

    def test_no_task(self):
        with pytest.raises(UserError, match="default_scope must be one of"):
            measure(Config(dict(default_scope="mmengine")))
