import pytest
import torch
import torch.nn.functional as F

from focal_mm.checkpoint import interpolate
from focal_mm.layers import SubWindowPooling
from focal_mm.ops import FocalGeometry, focal_attention
from focal_mm.ops.window.geometry import halo_sources, merge_halo_bias

CPU = torch.device("cpu")


def resized(grid, side):
    """(n, g, g) to (n, side, side) by PyTorch itself."""
    return F.interpolate(grid[None], (side, side), mode="bilinear")[0]


def test_sizes_that_agree_are_left_alone():
    geometry = FocalGeometry(7, 3)
    window, region = torch.randn(169, 3), torch.randn(3, 169)
    neighbors = torch.randn(1, 3, 49, 132)
    assert interpolate.resize_window_table(window, 169).equal(window)
    assert interpolate.resize_square(region, 169).equal(region)
    same = interpolate.resize_neighbor_table(neighbors, window, geometry, geometry)
    assert same.equal(neighbors)
    fc, conv = torch.randn(1, 49), torch.randn(5, 1, 7, 7)
    assert interpolate.resize_pool(fc, fc.shape).equal(fc)
    assert interpolate.resize_pool(conv, conv.shape).equal(conv)
    embed = torch.randn(1, 6, 8)
    assert interpolate.resize_pos_embed(embed, (2, 3), (2, 3)).equal(embed)


def test_window_table_is_resized_on_its_grid():
    table = torch.randn(13 * 13, 4)
    got = interpolate.resize_window_table(table, 27 * 27)
    want = resized(table.T.reshape(4, 13, 13), 27)
    torch.testing.assert_close(got, want.reshape(4, -1).T)


def test_region_table_is_resized_on_its_grid():
    table = torch.randn(4, 13 * 13)
    got = interpolate.resize_square(table, 21 * 21)
    want = resized(table.reshape(4, 13, 13), 21)
    torch.testing.assert_close(got, want.reshape(4, -1))


def test_table_that_is_no_square_is_refused():
    with pytest.raises(ValueError, match="square"):
        interpolate.resize_square(torch.randn(4, 170), 441)


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (FocalGeometry(7, 3), FocalGeometry(14, 7)),
        (FocalGeometry(7, 3), FocalGeometry(12, 5)),
        (FocalGeometry(14, 7), FocalGeometry(7, 3)),
        (FocalGeometry(7, 3), FocalGeometry(7, 2)),
    ],
)
def test_neighbor_table_is_resized_over_the_halo(source, target):
    """Merged field of the result = the merged field of the source, resized."""
    heads = 2
    window_table = torch.randn((2 * source.window_size - 1) ** 2, heads)
    neighbors = torch.randn(1, heads, source.window_area, source.num_neighbors)
    got = interpolate.resize_neighbor_table(neighbors, window_table, source, target)
    assert got.shape == (1, heads, target.window_area, target.num_neighbors)

    def merged(window, outer, geometry):
        sizes = geometry.window_size, geometry.expand_size
        return merge_halo_bias(window, outer[0], *sizes)

    side = source.window_size
    offsets = torch.arange(side)[:, None] - torch.arange(side) + side - 1
    grid = window_table.T.reshape(heads, 2 * side - 1, 2 * side - 1)
    window = grid[:, offsets[:, None, :, None], offsets[None, :, None, :]]
    field = merged(window.reshape(heads, side**2, side**2), neighbors, source)
    # Bilinear over keys and queries is one four-dimensional resize: do it per axis.
    field = field.view(heads * side**2, 1, source.halo_size, source.halo_size)
    field = F.interpolate(field, (target.halo_size,) * 2, mode="bilinear")
    field = field.view(heads, side, side, -1).permute(0, 3, 1, 2)
    field = F.interpolate(field, (target.window_size,) * 2, mode="bilinear")
    field = field.flatten(2).transpose(1, 2)

    blank = torch.zeros(heads, target.window_area, target.window_area)
    halo = merged(blank, got, target).unflatten(2, (target.halo_size,) * 2)
    want = field.unflatten(2, (target.halo_size,) * 2)
    e = target.expand_size
    outside = torch.ones(target.halo_size, target.halo_size, dtype=torch.bool)
    outside[e:-e, e:-e] = False
    torch.testing.assert_close(halo[..., outside], want[..., outside])


def test_halo_that_is_not_covered_is_not_resized():
    with pytest.raises(ValueError, match="do not cover"):
        interpolate.resize_neighbor_table(
            torch.randn(1, 1, 49, 132),
            torch.randn(169, 1),
            FocalGeometry(7, 3),
            FocalGeometry(7, 5),
        )


def test_geometry_from_table_sizes():
    for geometry in (FocalGeometry(7, 3), FocalGeometry(14, 7), FocalGeometry(6, 1)):
        rows = (2 * geometry.window_size - 1) ** 2
        assert interpolate.fine_geometry(rows, geometry.num_neighbors) == geometry


def test_pooling_of_a_constant_map_survives_resizing():
    fc = torch.rand(1, 49) + 0.1
    conv = torch.rand(3, 1, 7, 7) + 0.1
    torch.testing.assert_close(
        interpolate.resize_pool(fc, (1, 196)).sum(), fc.sum(), rtol=0.02, atol=0
    )
    torch.testing.assert_close(
        interpolate.resize_pool(conv, (3, 1, 14, 14)).sum((1, 2, 3)),
        conv.sum((1, 2, 3)),
        rtol=0.05,
        atol=0,
    )


def test_pooling_shared_by_channels_becomes_one_of_each():
    shared = SubWindowPooling("fc", 7, 5)
    shared.bias.data.fill_(0.3)
    each = SubWindowPooling("conv", 7, 5)
    each.load_state_dict(
        {
            name: interpolate.resize_pool(value, each.get_parameter(name).shape)
            for name, value in shared.state_dict().items()
        }
    )
    x = torch.randn(2, 14, 21, 5)
    torch.testing.assert_close(each(x), shared(x))
    with pytest.raises(ValueError, match="each channel"):
        interpolate.resize_pool(each.weight, shared.weight.shape)


def test_constant_bias_survives_resizing_in_the_attention():
    """With equal values everywhere the resized model attends uniformly, too."""
    source, target = FocalGeometry(7, 3), FocalGeometry(14, 7)
    # Twelve keys stand twice: log(2) less in both places makes the field constant.
    sources = halo_sources(7, 3, CPU)
    twice = sources[(sources < 181).all(1)]
    neighbors = torch.zeros(1, 1, 49, 132)
    neighbors[..., twice.flatten() - 49] = -torch.tensor(2.0).log()
    got = interpolate.resize_neighbor_table(
        neighbors, torch.zeros(169, 1), source, target
    )
    torch.testing.assert_close(got, torch.zeros_like(got), rtol=0, atol=1e-6)
    tokens = torch.randn(1, 28, 28, 1, 4)
    out = focal_attention(
        torch.zeros_like(tokens),
        tokens,
        tokens,
        [],
        [],
        torch.zeros(1, 196, 196),
        got[0],
        [],
        geometry=target,
    )
    mean = tokens.mean((1, 2), keepdim=True)
    torch.testing.assert_close(out, mean.expand_as(out), rtol=1e-4, atol=1e-5)
