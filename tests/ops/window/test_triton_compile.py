"""The Triton kernels compiled for a Hopper GPU, which needs none: no spills."""

import pytest
import torch

from focal_mm.ops import FocalGeometry
from focal_mm.ops.window.triton import backend

if not backend._installed() or backend._interpreted():
    pytest.skip("needs triton, and not its interpreter", allow_module_level=True)

from focal_mm.ops.window.triton import launch
from tests.ops.hopper import check_resources, kernels_of, record_launches

pytestmark = pytest.mark.slow

DETECTION = FocalGeometry(7, 3, 15, 1)
CLASSIFICATION = FocalGeometry(7, 3, 7, 1)
SETTINGS = [
    # Geometry, side of the map, heads, channels of a head, dtype.
    (CLASSIFICATION, 56, 3, 32, torch.bfloat16),
    (CLASSIFICATION, 56, 3, 32, torch.float16),
    (CLASSIFICATION, 56, 3, 32, torch.float32),
    (FocalGeometry(7, 3, 5, 1), 28, 6, 32, torch.bfloat16),
    (FocalGeometry(7, 3, 3, 1), 14, 12, 32, torch.bfloat16),
    (FocalGeometry(7, 0, 1, 1), 7, 24, 32, torch.bfloat16),
    (FocalGeometry(7, 0, 1, 0), 7, 1, 32, torch.bfloat16),
    (DETECTION, 203, 3, 32, torch.bfloat16),
    (DETECTION, 203, 3, 32, torch.float32),
    (FocalGeometry(7, 3, 13, 1), 98, 8, 32, torch.bfloat16),
    (FocalGeometry(7, 3, 7, 2, 3), 56, 3, 32, torch.bfloat16),
    (FocalGeometry(14, 7, 7, 2), 56, 4, 32, torch.bfloat16),
    (FocalGeometry(14, 7, 7, 2), 56, 4, 64, torch.bfloat16),
    (CLASSIFICATION, 56, 6, 16, torch.bfloat16),
    (CLASSIFICATION, 56, 3, 48, torch.bfloat16),
    (CLASSIFICATION, 56, 3, 64, torch.bfloat16),
    (CLASSIFICATION, 56, 3, 64, torch.float32),
]


def record(geometry, side, heads, channels, dtype):
    """Start a forward and a backward pass on slices of one projection."""
    fine = torch.zeros(2, side, side, 3, heads, channels, dtype=dtype)
    windows = (side // geometry.window_size) ** 2
    levels = range(geometry.coarse_levels)
    tokens = sum(windows * geometry.stride(level) ** 2 for level in levels)
    pooled = torch.zeros(2, tokens, 2, heads, channels, dtype=dtype)
    keys = geometry.halo_size**2
    keys += sum(geometry.region_size(level) ** 2 for level in levels)
    bias = torch.zeros(heads, geometry.window_area, keys)
    tensors = (*fine.unbind(3), *pooled.unbind(2), bias)
    call = launch.make_call(*tensors, geometry, channels**-0.5)
    out, lse = launch.forward(call)
    launch.backward(call, out, lse, torch.zeros_like(out), needs_bias=True)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_kernel_spills_registers(setting, monkeypatch, tmp_path):
    names = {*kernels_of(launch)}
    launches = record_launches(launch, monkeypatch, tmp_path)
    record(*setting)
    assert {kernel.__name__ for kernel, _, _ in launches} == names
    check_resources(launches, tmp_path)
