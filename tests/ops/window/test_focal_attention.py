"""Focal attention: cases for its backends, and what its contract says of borders."""

import random

import pytest
import torch

from focal_mm.ops import BACKENDS, FocalGeometry, focal_attention

# The kernels have their own tests: they take no float64, and a GPU's tensors.
ON_CPU = [b.name for b in BACKENDS["window"] if b.name != "triton"]


def random_case(seed, dtype=torch.float64):
    """Arguments of one call; the seed decides sizes and values."""
    rng = random.Random(seed)
    torch.manual_seed(seed)
    window = rng.choice([1, 2, 3, 4, 7, 7, 8])
    geometry = FocalGeometry(
        window_size=window,
        expand_size=rng.choice([0, window // 2, rng.randint(0, window)]),
        focal_window=rng.choice([1, 3, 5, 7, 15]),
        coarse_levels=rng.randint(0, min(2, window.bit_length())),
        shift_size=rng.choice([0, 0, window // 2]),
    )
    rows, cols = rng.choice([(1, 1), (1, 5), (4, 1), (2, 3), (3, 3)])
    batch, heads, channels = rng.choice([1, 1, 2]), rng.choice([1, 2, 3]), 8
    area = geometry.window_area

    def tensor(*shape):
        return torch.randn(shape, dtype=dtype).requires_grad_()

    fine = (batch, rows * window, cols * window, heads, channels)
    pooled_shapes = [
        (batch, rows * 2**k, cols * 2**k, heads, channels)
        for k in range(geometry.coarse_levels)
    ]
    return dict(
        query=tensor(*fine),
        key=tensor(*fine),
        value=tensor(*fine),
        pooled_keys=[tensor(*shape) for shape in pooled_shapes],
        pooled_values=[tensor(*shape) for shape in pooled_shapes],
        window_bias=tensor(heads, area, area),
        neighbor_bias=(
            tensor(heads, area, geometry.num_neighbors)
            if geometry.expand_size
            else None
        ),
        pooled_biases=[
            tensor(heads, area, geometry.region_size(k) ** 2)
            for k in range(geometry.coarse_levels)
        ],
        geometry=geometry,
    )


def test_border_of_the_pooled_map_is_masked_and_of_the_fine_map_wraps():
    """A key counts exactly where the contract says that it is seen."""
    geometry = FocalGeometry(2, 1, focal_window=3, coarse_levels=1)
    case = random_case(0)
    heads, channels, area = 1, 4, 4
    zeros = torch.zeros(1, 8, 8, heads, channels)
    value = zeros.clone()
    value[0, 0, 7] = 1.0
    pooled = torch.zeros(1, 4, 4, heads, channels)
    pooled_value = pooled.clone()
    pooled_value[0, 0, 0] = 1.0
    case.update(
        query=zeros,
        key=zeros,
        window_bias=torch.zeros(heads, area, area),
        neighbor_bias=torch.zeros(heads, area, geometry.num_neighbors),
        pooled_keys=[pooled],
        pooled_biases=[torch.zeros(heads, area, 9)],
        geometry=geometry,
    )
    for backend in ON_CPU:
        fine = focal_attention(
            **{**case, "value": value, "pooled_values": [pooled]}, backend=backend
        )
        seen = fine[0, ::2, ::2, 0, 0] > 1e-6
        rows, cols = seen.nonzero(as_tuple=True)
        wrapped = {(0, 3), (0, 0), (3, 3), (3, 0)}
        assert set(zip(rows.tolist(), cols.tolist(), strict=True)) == wrapped
        coarse = focal_attention(
            **{**case, "value": zeros, "pooled_values": [pooled_value]}, backend=backend
        )
        seen = (coarse[0, ::2, ::2, 0, 0] > 1e-6).nonzero().tolist()
        assert seen == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_wrong_arguments_are_named():
    geometry = FocalGeometry(7, 3, 3, 1)
    fine = torch.zeros(1, 7, 7, 1, 8)
    pooled = torch.zeros(1, 1, 1, 1, 8)
    right = dict(
        query=fine,
        key=fine,
        value=fine,
        pooled_keys=[pooled],
        pooled_values=[pooled],
        window_bias=torch.zeros(1, 49, 49),
        neighbor_bias=torch.zeros(1, 49, 132),
        pooled_biases=[torch.zeros(1, 49, 9)],
        geometry=geometry,
    )
    assert focal_attention(**right).shape == fine.shape
    for name, changes in {
        "window_size": dict(query=torch.zeros(1, 8, 7, 1, 8)),
        "query": dict(query=torch.zeros(7, 7, 8)),
        "key": dict(key=torch.zeros(1, 14, 14, 1, 8)),
        "neighbor_bias": dict(neighbor_bias=None),
        "pooled_keys": dict(pooled_keys=[]),
        r"pooled_values\[0\]": dict(pooled_values=[fine]),
        r"pooled_biases\[0\]": dict(pooled_biases=[torch.zeros(1, 49, 16)]),
        "attn_backend": dict(backend="fastest"),
    }.items():
        with pytest.raises(ValueError, match=name):
            focal_attention(**{**right, **changes})
