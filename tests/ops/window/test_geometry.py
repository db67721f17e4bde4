import pytest
import torch

from focal_mm.ops import FocalGeometry
from focal_mm.ops.window.geometry import (
    halo_sources,
    merge_halo_bias,
    region_mask,
    relative_index,
    shift_mask,
)

CPU = torch.device("cpu")


def test_halo_of_the_paper_has_12_tokens_twice():
    geometry = FocalGeometry(window_size=7, expand_size=3)
    sources = halo_sources(geometry.window_size, geometry.expand_size, CPU)
    released_keys = geometry.window_area + geometry.num_neighbors
    copies = (sources < released_keys).sum(1)
    assert geometry.num_neighbors == 132
    assert len(copies) == 13 * 13
    assert copies.sum() == released_keys
    assert copies.min() == 1
    assert (copies == 2).sum() == 12


def test_halo_that_the_rolls_do_not_cover_has_tokens_without_weight():
    geometry = FocalGeometry(window_size=7, expand_size=5)
    sources = halo_sources(geometry.window_size, geometry.expand_size, CPU)
    released_keys = geometry.window_area + geometry.num_neighbors
    uncovered = (sources == released_keys).all(1)
    assert uncovered.any()
    window = torch.randn(2, 49, 49)
    neighbors = torch.randn(2, 49, geometry.num_neighbors)
    bias = merge_halo_bias(window, neighbors, 7, 5)
    assert (bias.softmax(-1)[..., uncovered] == 0).all()


def test_merged_bias_weighs_as_much_as_its_copies():
    window = torch.randn(2, 49, 49, dtype=torch.float64)
    neighbors = torch.randn(2, 49, 132, dtype=torch.float64)
    merged = merge_halo_bias(window, neighbors, 7, 3)
    both = torch.cat((window, neighbors), -1)
    torch.testing.assert_close(merged.exp().sum(-1), both.exp().sum(-1))


@pytest.mark.parametrize(
    ("level", "first", "last"), [(0, -3, 3), (1, -3, 4), (2, -3, 6)]
)
def test_region_is_centred_on_the_windows_own_sub_windows(level, first, last):
    """NUMERICS: at k = 1 and r = 7, window i sees sub-windows 2i-3 … 2i+4."""
    geometry = FocalGeometry(8, focal_window=7, coarse_levels=3)
    windows, stride = 12, geometry.stride(level)
    region = geometry.region_size(level)
    assert region == last - first + 1
    mask = region_mask(windows, 1, stride, region, CPU)
    rows = mask.view(windows, region, region)[:, :, region // 2 - stride // 2]
    for i in range(windows):
        inside = [
            0 <= i * stride + k < windows * stride for k in range(first, last + 1)
        ]
        assert (rows[i] == 0).tolist() == inside


def test_relative_index_follows_query_minus_key():
    size, region = 3, 5
    index = relative_index(size, region, CPU)
    side = size + region - 1
    for query, key in ((0, 0), (4, 7), (8, 24)):
        row = query // size - key // region + region - 1
        col = query % size - key % region + region - 1
        assert index[query, key] == row * side + col
    assert index.min() == 0
    assert index.max() == side**2 - 1


def test_shift_mask_separates_what_the_roll_brought_together():
    mask = shift_mask(2, 2, 4, 2, CPU)
    assert (mask[0] == 0).all()
    top_right = mask[1].view(4, 4, 4, 4)
    # Columns 0, 1 come from the right end, columns 2, 3 from the left end of the map.
    assert (top_right[:, :2, :, 2:] < 0).all()
    assert (top_right[:, :2, :, :2] == 0).all()


def test_indices_are_built_once_per_size_and_usable_after_inference_mode():
    with torch.inference_mode():
        first = relative_index(11, 11, CPU)
    assert relative_index(11, 11, CPU) is first
    table = torch.randn(21**2, 2, requires_grad=True)
    table[first.flatten()].sum().backward()
    assert table.grad is not None


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        (dict(window_size=0), "window_size"),
        (dict(window_size=7, expand_size=8), "expand_size"),
        (dict(window_size=7, focal_window=4), "focal_window"),
        (dict(window_size=2, coarse_levels=3), "coarse_levels"),
        (dict(window_size=7, shift_size=7), "shift_size"),
    ],
)
def test_impossible_sizes_are_refused_by_name(sizes, named):
    with pytest.raises(ValueError, match=named):
        FocalGeometry(**sizes)
