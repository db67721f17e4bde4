"""The CPU backend's operator: all instruction sets, cuts into tasks, strides."""

import os
import subprocess
import sys

import pytest
import torch

from focal_mm.ops import FocalGeometry
from tests.ops.cases import check_in_its_dtype, in_float64, run


def large_case(seed, batch=2, grid=(5, 7), heads=2, dims=20, scale=1.0):
    """A detector's geometry on a map of several windows, shifted or not."""
    generator = torch.Generator().manual_seed(seed)
    geometry = FocalGeometry(
        7,
        3 * (seed % 2),
        focal_window=7,
        coarse_levels=1,
        shift_size=3 if seed == 2 else 0,
    )

    def randn(*shape):
        tensor = torch.randn(shape, generator=generator) * scale
        return tensor.requires_grad_()

    fine = batch, 7 * grid[0], 7 * grid[1], heads, dims
    area, neighbors = geometry.window_area, geometry.num_neighbors
    return dict(
        query=randn(*fine),
        key=randn(*fine),
        value=randn(*fine),
        pooled_keys=[randn(batch, *grid, heads, dims)],
        pooled_values=[randn(batch, *grid, heads, dims)],
        window_bias=randn(heads, area, area),
        neighbor_bias=randn(heads, area, neighbors) if geometry.expand_size else None,
        pooled_biases=[randn(heads, area, 49)],
        geometry=geometry,
    )


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("seed", range(4))
def test_any_number_of_tasks_gives_what_the_reference_gives(
    seed, threads, relative_error
):
    """Threads decide how many rows of windows a task of the backward pass has."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_in_its_dtype(large_case(seed), "cpu", 2e-6, relative_error)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dims", [1, 16, 33, 96])
def test_heads_of_any_width(dims, relative_error):
    case = large_case(3, batch=1, grid=(2, 3), dims=dims)
    check_in_its_dtype(case, "cpu", 2e-6, relative_error)


def test_logits_of_any_size_stay_finite(relative_error):
    """Those of thousands are as exact as float32 is there."""
    case = large_case(1, grid=(2, 2), scale=30.0)
    output, grads = run(case, "cpu")
    assert all(grad.isfinite().all() for grad in grads.values())
    expected, _ = run(in_float64(case), "naive")
    assert relative_error(output.double(), expected) < 1e-3


def test_maps_of_any_strides(relative_error):
    case = large_case(1)
    expected, _ = run(case, "cpu")
    for name in ("query", "key", "value"):
        case[name] = case[name].detach().movedim(4, 1).contiguous().movedim(1, 4)
        case[name].requires_grad_()
    output, _ = run(case, "cpu")
    assert torch.equal(output, expected)


@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_every_instruction_set(capability):
    """This machine's is tested above; PyTorch takes another one when it starts."""
    command = [sys.executable, "-m", "pytest", "-q", "-k", "width", __file__]
    environment = os.environ | {"ATEN_CPU_CAPABILITY": capability}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
