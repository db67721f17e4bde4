"""Calls of both key selections for the tests of the Triton kernels."""

import torch

from focal_mm.ops import FocalGeometry, TopKGeometry, focal_attention, topk_attention
from focal_mm.ops.topk.geometry import bias_table_size

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ATTENTION = {FocalGeometry: focal_attention, TopKGeometry: topk_attention}


def _biases(geometry, grid, heads):
    """Names of a geometry's biases and their shapes."""
    if isinstance(geometry, TopKGeometry):
        size = geometry.window_size
        levels = geometry.levels(*grid)
        return {
            "bias_tables": [(heads, *bias_table_size(level, size)) for level in levels]
        }
    area, levels = geometry.window_area, range(geometry.coarse_levels)
    neighbors = (heads, area, geometry.num_neighbors)
    return {
        "window_bias": (heads, area, area),
        "neighbor_bias": neighbors if geometry.expand_size else None,
        "pooled_biases": [(heads, area, geometry.region_size(k) ** 2) for k in levels],
    }


def make_case(geometry, grid, shape, dtype=torch.float32):
    """Arguments of one call; ``shape`` is (batch, heads, channels)."""
    (rows, cols), (batch, heads, channels) = grid, shape
    size = geometry.window_size

    def leaf(shape):
        return torch.randn(shape, dtype=dtype, device=DEVICE).requires_grad_()

    fine = (batch, rows * size, cols * size, heads, channels)
    pooled = [
        (batch, *(n * geometry.stride(level) for n in grid), heads, channels)
        for level in range(geometry.coarse_levels)
    ]
    shapes = dict(query=fine, key=fine, value=fine, pooled_keys=pooled)
    shapes.update(pooled_values=pooled, **_biases(geometry, grid, heads))
    case = {
        name: list(map(leaf, shape)) if isinstance(shape, list) else leaf(shape)
        for name, shape in shapes.items()
        if shape is not None
    }
    return {**dict.fromkeys(shapes), **case, "geometry": geometry}


def map_tensors(function, case):
    """The case with the function applied to every tensor."""

    def apply(value):
        if isinstance(value, list):
            return [function(tensor) for tensor in value]
        return function(value) if isinstance(value, torch.Tensor) else value

    return {name: apply(value) for name, value in case.items()}


def tensors_of(case):
    """All tensors by name."""
    named = {}
    for name, value in case.items():
        if isinstance(value, torch.Tensor):
            named[name] = value
        elif isinstance(value, list):
            named.update({f"{name}[{i}]": tensor for i, tensor in enumerate(value)})
    return named


def call(case, name, attention=None):
    """The attention of the case's key selection by the backend ``name``."""
    attention = attention or ATTENTION[type(case["geometry"])]
    return attention(**case, backend=name)


def run(case, name, attention=None):
    """Output, and the gradients of all tensors that want one, for a fixed loss."""
    output = call(case, name, attention)
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(output.shape, generator=generator).to(output)
    wanted = {n: t for n, t in tensors_of(case).items() if t.requires_grad}
    grads = torch.autograd.grad((output * weight).sum(), tuple(wanted.values()))
    return {"output": output.detach(), **dict(zip(wanted, grads, strict=True))}


def check_against_naive(case, relative_error, tolerance=1e-5, of_gradients=1e-5):
    """Output and every gradient, against the reference in float64."""
    exact = map_tensors(lambda t: t.detach().double().requires_grad_(), case)
    wanted, got = run(exact, "naive"), run(case, "triton")
    assert got.keys() == wanted.keys()
    for name, tensor in got.items():
        assert tensor.dtype == case["value"].dtype
        allowed = tolerance if name == "output" else of_gradients
        assert relative_error(tensor.double(), wanted[name]) < allowed, name
