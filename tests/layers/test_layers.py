import pytest
import torch

from focal_mm.layers import SubWindowPooling, make_downsample, make_stem
from focal_mm.layers.pooling import centre_to


@pytest.mark.parametrize(
    ("size", "wanted", "first"), [(7, 6, 0), (14, 12, 1), (5, 8, -1), (4, 4, 0)]
)
def test_centring_trims_and_pads_the_smaller_half_first(size, wanted, first):
    """``first``: where the result begins on the map, as trimming in the contract."""
    tokens = torch.arange(1.0, size + 1).view(1, size, 1, 1).expand(-1, -1, size, -1)
    got = centre_to(tokens, wanted, wanted)
    assert got.shape == (1, wanted, wanted, 1)
    want = [i + 1 if 0 <= i < size else 0 for i in range(first, first + wanted)]
    middle = wanted // 2
    assert got[0, :, middle, 0].tolist() == want
    assert got.transpose(1, 2).count_nonzero() == got.count_nonzero()


@pytest.mark.parametrize("method", ["fc", "conv", "mean", "max"])
def test_pooling_against_a_loop(method):
    size, channels = 3, 4
    pool = SubWindowPooling(method, size, channels)
    x = torch.randn(2, 2 * size, 3 * size, channels)
    got = pool(x)
    assert got.shape == (2, 2, 3, channels)
    for row in range(2):
        for col in range(3):
            rows = slice(row * size, (row + 1) * size)
            cols = slice(col * size, (col + 1) * size)
            window = x[:, rows, cols].flatten(1, 2)
            want = {
                "fc": lambda w: (
                    torch.einsum("bpc,p->bc", w, pool.weight[0]) + pool.bias
                ),
                "conv": lambda w: (w * pool.weight.flatten(1).T).sum(1) + pool.bias,
                "mean": lambda w: w.mean(1),
                "max": lambda w: w.amax(1),
            }[method](window)
            torch.testing.assert_close(got[:, row, col], want)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (5, 8), (33, 7)])
def test_embeddings_pad_and_never_crop(overlap, size):
    """Each input pixel reaches the output, whatever the size."""
    stem = make_stem(3, 8, 4, overlap, norm=False)
    down = make_downsample(8, overlap, norm=False, pre_norm=True)
    x = torch.randn(1, 3, *size, requires_grad=True)
    out = stem(x)
    assert out.shape == (1, -(-size[0] // 4), -(-size[1] // 4), 8)
    out.sum().backward()
    assert (x.grad != 0).all()
    half = down(out.detach().permute(0, 3, 1, 2))
    assert half.shape == (1, -(-out.shape[1] // 2), -(-out.shape[2] // 2), 16)
