import pytest
import torch

from focal_mm.layers import TopKAttention
from focal_mm.ops import TopKGeometry


def by_hand(attention, x, pooled, window):
    """Logits' softmax and values of one window (row, column), pair by pair."""
    size, heads = attention.geometry.window_size, attention.num_heads
    channels = x.shape[-1] // heads

    def project(tokens):
        return attention.qkv(tokens).unflatten(-1, (3, heads, channels)).unbind(-3)

    middle = [place * size + size // 2 for place in window]
    tokens, distances, kinds = [], [], []
    for level, (grid, step) in enumerate(((x, 1), (pooled, size))):
        centre = torch.tensor(middle if level == 0 else window)
        at = torch.cartesian_prod(*(torch.arange(n) for n in grid.shape[:2]))
        away = centre - at
        keep = min(attention.geometry.topk, len(at))
        chosen = torch.topk(-away.float().norm(dim=1), keep).indices
        tokens.append(grid.flatten(0, 1)[chosen])
        distances.append(away[chosen] * step)
        kinds += [level] * keep
    _, keys, values = project(torch.cat(tokens))
    out = torch.empty(size, size, heads, channels)
    for row in range(size):
        for col in range(size):
            place = window[0] * size + row, window[1] * size + col
            query = project(x[place])[0] * channels**-0.5
            offset = torch.cat(distances) + torch.tensor(
                [place[0] - middle[0], place[1] - middle[1]]
            )
            logits = torch.einsum("hd,khd->kh", query, keys)
            bias = torch.stack(
                [
                    attention.coord2rpb_all[level](one.float())
                    for level, one in zip(kinds, offset, strict=True)
                ]
            )
            weights = (logits + bias).softmax(0)
            out[row, col] = torch.einsum("kh,khd->hd", weights, values)
    return attention.proj(out.flatten(-2))


@pytest.mark.parametrize(("size", "topk"), [(3, 10), (4, 128)])
def test_topk_attention_is_what_a_loop_over_pairs_says(size, topk):
    """The bias of each pair is the MLP of its offset in tokens, rows first."""
    attention = TopKAttention(8, 2, TopKGeometry(size, topk, coarse_levels=1))
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x, pooled = torch.randn(2, 2 * size, 4 * size, 8), torch.randn(2, 2, 4, 8)
    with torch.no_grad():
        out = attention(x, [pooled])
        for item, row, col in ((0, 0, 0), (1, 1, 2)):
            got = out[item, row * size : (row + 1) * size][
                :, col * size : (col + 1) * size
            ]
            want = by_hand(attention, x[item], pooled[item], (row, col))
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_biases_are_not_computed_in_half_precision():
    """bfloat16 cannot tell the offsets of a wide map apart."""
    attention = TopKAttention(8, 2, TopKGeometry(7, 128, coarse_levels=1))
    with torch.autocast("cpu", torch.bfloat16):
        tables = attention._bias_tables(1, 120, torch.device("cpu"))
    assert all(table.dtype == torch.float32 for table in tables)
    assert len(tables[1].unique(dim=2)[0, 0]) > 1000
