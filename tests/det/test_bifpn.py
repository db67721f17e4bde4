"""BiFPN: shapes, weights, flow of information."""

from __future__ import annotations

import pytest
import torch
from mmengine.registry import MODELS

from focal_mm.det.necks import BiFPN
from focal_mm.det.necks.bifpn import FusionNode

CHANNELS = (8, 16, 24)
GN = dict(type="GN", num_groups=4)


def pyramid(size: tuple[int, int], channels=CHANNELS) -> list[torch.Tensor]:
    """Maps of a backbone, each half as large as the one before, rounded up."""
    maps = []
    for number in channels:
        maps.append(torch.randn(2, number, *size))
        size = tuple((side + 1) // 2 for side in size)
    return maps


@pytest.mark.parametrize("size", [(32, 40), (25, 19), (3, 2)])
@pytest.mark.parametrize("num_outs", [3, 5])
def test_sizes_halve(size, num_outs):
    neck = BiFPN(CHANNELS, 16, num_outs=num_outs, norm_cfg=GN)
    outs = neck(pyramid(size))
    assert len(outs) == num_outs
    for out in outs:
        assert out.shape == (2, 16, *size)
        size = tuple((side + 1) // 2 for side in size)


def test_upper_levels_are_pooled_from_the_last_map():
    """Before all are brought to one width; a map that has it is not changed."""
    neck = BiFPN((16, 24), 16, num_outs=4, norm_cfg=GN)
    neck.layers = torch.nn.ModuleList()
    fine, coarse = pyramid((8, 8), (16, 24))
    pooled = torch.nn.functional.max_pool2d(coarse, 3, stride=2, padding=1)
    outs = neck([fine, coarse])
    assert torch.equal(outs[0], fine)
    torch.testing.assert_close(outs[2], neck.lateral_convs[2](pooled))
    assert outs[3].shape == (2, 16, 1, 1)


def test_fast_normalised_fusion():
    """Negative weights count as 0, the others by their share; then Swish."""
    node = FusionNode(3, 4, None)
    torch.nn.init.dirac_(node.conv.conv.weight)
    torch.nn.init.zeros_(node.conv.conv.bias)
    node.weight.data = torch.tensor([1.0, -5.0, 3.0])
    a, b, c = torch.randn(3, 1, 4, 5, 5)
    mixed = (a + 3 * c) / 4
    torch.testing.assert_close(
        node(a, b, c), mixed * mixed.sigmoid(), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("repeats", [1, 2])
def test_information_flows_both_ways(repeats):
    """Every fused output sees every input: top down, then bottom up."""
    neck = BiFPN(CHANNELS, 16, num_repeats=repeats)
    maps = pyramid((16, 16))
    outs = neck(maps)
    for level in range(len(maps)):
        changed = list(maps)
        changed[level] = maps[level] + torch.randn_like(maps[level])
        for out, other in zip(outs, neck(changed), strict=True):
            assert (out - other).abs().max() > 1e-6


def test_every_parameter_is_trained():
    neck = MODELS.build(
        dict(type="BiFPN", in_channels=CHANNELS, out_channels=16, norm_cfg=GN)
    )
    neck.init_weights()
    sum(out.square().sum() for out in neck(pyramid((32, 32)))).backward()
    for name, parameter in neck.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_number_of_convolutions():
    """Of a repeat: 2 (L - 1) nodes. Before the first: one for each level."""
    neck = BiFPN(CHANNELS, 32, norm_cfg=GN)
    convs = [m for m in neck.modules() if isinstance(m, torch.nn.Conv2d)]
    sizes = [conv.kernel_size[0] for conv in convs]
    assert sorted(sizes) == [1] * 5 + [3] * 2 * 8
    assert not any(conv.bias is not None for conv in convs)


@pytest.mark.parametrize("options", [dict(num_outs=2), dict(num_repeats=0)])
def test_levels_that_do_not_fit_are_refused(options):
    with pytest.raises(ValueError, match=r"num_outs=2|num_repeats"):
        BiFPN(CHANNELS, 16, **options)


def test_another_number_of_maps_is_refused():
    with pytest.raises(ValueError, match="expected 3 maps, got 2"):
        BiFPN(CHANNELS, 16)(pyramid((8, 8))[:2])
