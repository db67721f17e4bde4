"""Top-K attention: cases for its backends, and which keys it takes."""

import random

import pytest
import torch

from focal_mm.ops import BACKENDS, TopKGeometry, topk_attention
from focal_mm.ops.topk.geometry import (
    Level,
    bias_table_size,
    closest_keys,
    offset_grid,
    reach,
)

CPU = torch.device("cpu")
# The Triton kernels have their own tests: test_topk_triton_kernels.py.
ON_CPU = [b.name for b in BACKENDS["topk"] if b.name != "triton"]


def make_case(geometry, grid, shape, dtype, device="cpu"):
    """Arguments of one call; ``shape`` is (batch, heads, channels)."""
    (rows, cols), (batch, heads, channels) = grid, shape
    size = geometry.window_size

    def tensor(*shape):
        return torch.randn(shape, dtype=dtype, device=device).requires_grad_()

    fine = (batch, rows * size, cols * size, heads, channels)
    pooled = [(batch, rows, cols, heads, channels)] * geometry.coarse_levels
    return dict(
        query=tensor(*fine),
        key=tensor(*fine),
        value=tensor(*fine),
        pooled_keys=[tensor(*shape) for shape in pooled],
        pooled_values=[tensor(*shape) for shape in pooled],
        bias_tables=[
            tensor(heads, *bias_table_size(level, size))
            for level in geometry.levels(rows, cols)
        ],
        geometry=geometry,
    )


def random_case(seed, dtype=torch.float64):
    """Arguments of one call; the seed decides sizes and values."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    geometry = TopKGeometry(
        window_size=rng.choice([1, 2, 3, 4, 7, 7]),
        topk=rng.choice([1, 5, 20, 128]),
        coarse_levels=rng.randint(0, 1),
    )
    grid = rng.choice([(1, 1), (1, 5), (4, 1), (2, 3), (3, 3)])
    shape = (rng.choice([1, 1, 2]), rng.choice([1, 2, 3]), 8)
    return make_case(geometry, grid, shape, dtype)


@pytest.mark.parametrize("backend", ON_CPU)
def test_keys_are_the_closest_to_the_centre_and_all_of_a_small_map(backend):
    """Read off the weights: values are the identity, so outputs are the weights."""
    side, size, topk = 9, 3, 13
    geometry = TopKGeometry(size, topk, coarse_levels=1)
    fine = torch.zeros(1, side, side, 1, side * side + 9)
    value = torch.eye(side * side + 9)[: side * side].view(1, side, side, 1, -1)
    pooled = torch.eye(side * side + 9)[side * side :].view(1, 3, 3, 1, -1)
    tables = [
        torch.zeros(1, *bias_table_size(level, size)) for level in geometry.levels(3, 3)
    ]
    weights = topk_attention(
        fine,
        fine,
        value,
        [torch.zeros_like(pooled)],
        [pooled],
        tables,
        geometry=geometry,
        backend=backend,
    )
    seen = (weights[0, ::size, ::size, 0] > 0).flatten(0, 1)
    assert seen[:, side * side :].all()
    for number, tokens in enumerate(seen[:, : side * side]):
        centre = complex(number // 3 * size + 1, number % 3 * size + 1)
        distances = [abs(complex(t // side, t % side) - centre) for t in range(81)]
        taken = [d for d, is_taken in zip(distances, tokens, strict=True) if is_taken]
        assert len(taken) == topk
        torch.testing.assert_close(sorted(taken), sorted(distances)[:topk])


def test_ties_are_broken_as_by_one_call_for_all_windows():
    """The released code's own way: all distances of all windows at once."""
    level = Level(rows=5, cols=3, per_window=7, step=1, topk=128)
    tokens = torch.cartesian_prod(torch.arange(35), torch.arange(21))
    centres = torch.cartesian_prod(torch.arange(5) * 7 + 3, torch.arange(3) * 7 + 3)
    distances = (centres[:, None] - tokens).float().norm(dim=-1)
    want = torch.topk(-distances, 128, dim=1).indices
    index, displacement = closest_keys((level,), CPU)
    assert index.equal(want)
    rows, cols = reach(level)
    offsets = (centres[:, None] - tokens[index]) + torch.tensor([rows, cols])
    assert displacement.equal(offsets[..., 0] * (2 * cols + 1) + offsets[..., 1])
    assert offsets.flatten(0, 1).min(0).values.min() == 0


@pytest.mark.parametrize("size", [4, 7])
@pytest.mark.parametrize("pooled", [False, True])
def test_table_has_just_the_offsets_that_occur(size, pooled):
    per_window, step = (1, size) if pooled else (size, 1)
    level = Level(2, 3, per_window, step, topk=20)
    index, _ = closest_keys((level,), CPU)
    pairs = set()
    for window, keys in enumerate(index.tolist()):
        for axis, place in enumerate((window // 3, window % 3)):
            for key in keys:
                at = divmod(key, level.shape[1])[axis] * step
                centre = (place * per_window + per_window // 2) * step
                pairs |= {(axis, centre + q - size // 2 - at) for q in range(size)}
    grid = offset_grid(level, size, CPU)
    for axis in (0, 1):
        got = grid.select(1 - axis, 0)[:, axis].tolist()
        assert got[0] == min(got)
        assert got == [*range(int(got[0]), int(got[-1]) + 1)]
        occurring = [offset for its_axis, offset in pairs if its_axis == axis]
        assert got[0] <= min(occurring)
        assert max(occurring) <= got[-1]
        assert min(occurring) == got[0] or max(occurring) == got[-1]


def test_searched_once_per_size_and_usable_after_inference_mode(monkeypatch):
    level = Level(rows=2, cols=2, per_window=11, step=1, topk=9)
    with torch.inference_mode():
        first = closest_keys((level,), CPU)
    monkeypatch.setattr(torch, "topk", None)
    assert closest_keys((level,), CPU) is first
    table = torch.randn(1000, requires_grad=True)
    table[first[1].flatten()].sum().backward()
    assert table.grad is not None


def test_wrong_arguments_are_named():
    geometry = TopKGeometry(7, 20, 1)
    fine, pooled = torch.zeros(1, 7, 14, 1, 8), torch.zeros(1, 1, 2, 1, 8)
    right = dict(
        query=fine,
        key=fine,
        value=fine,
        pooled_keys=[pooled],
        pooled_values=[pooled],
        bias_tables=[
            torch.zeros(1, *bias_table_size(level, 7))
            for level in geometry.levels(1, 2)
        ],
        geometry=geometry,
    )
    assert topk_attention(**right).shape == fine.shape
    for name, changes in {
        "window_size": dict(query=torch.zeros(1, 8, 14, 1, 8)),
        "query": dict(query=torch.zeros(7, 7, 8)),
        "key": dict(key=pooled),
        "pooled_keys": dict(pooled_keys=[]),
        r"pooled_values\[0\]": dict(pooled_values=[fine]),
        "bias_tables must": dict(bias_tables=[]),
        r"bias_tables\[1\]": dict(bias_tables=[right["bias_tables"][0], pooled]),
        "attn_backend": dict(backend="fastest"),
    }.items():
        with pytest.raises(ValueError, match=name):
            topk_attention(**{**right, **changes})


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        (dict(window_size=0), "window_size"),
        (dict(window_size=7, topk=0), "topk"),
        (dict(window_size=7, coarse_levels=2), "coarse_levels"),
    ],
)
def test_impossible_sizes_are_refused_by_name(sizes, named):
    with pytest.raises(ValueError, match=named):
        TopKGeometry(**sizes)
