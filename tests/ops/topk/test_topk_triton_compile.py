"""The Triton kernels of top-K attention compiled for a Hopper GPU: no spills."""

import pytest
import torch

from focal_mm.ops import TopKGeometry
from focal_mm.ops.topk.geometry import bias_table_size
from focal_mm.ops.window.triton import backend

if not backend._installed() or backend._interpreted():
    pytest.skip("needs triton, and not its interpreter", allow_module_level=True)

from focal_mm.ops.topk.triton import launch
from tests.ops.hopper import check_resources, kernels_of, record_launches

pytestmark = pytest.mark.slow

FAST = TopKGeometry(7, 128, 1)
SETTINGS = [
    # Geometry, sides of the map, heads, channels of a head, dtype.
    (FAST, (56, 56), 3, 32, torch.bfloat16),
    (FAST, (56, 56), 3, 32, torch.float16),
    (FAST, (56, 56), 3, 32, torch.float32),
    (FAST, (28, 28), 6, 32, torch.bfloat16),
    (FAST, (14, 14), 12, 32, torch.bfloat16),
    (FAST, (7, 7), 24, 32, torch.bfloat16),
    (TopKGeometry(7, 128), (7, 7), 1, 32, torch.bfloat16),
    (FAST, (203, 336), 3, 32, torch.bfloat16),
    (FAST, (203, 336), 3, 32, torch.float32),
    (TopKGeometry(7, 49, 1), (35, 21), 3, 32, torch.bfloat16),
    (TopKGeometry(14, 256, 1), (56, 56), 4, 32, torch.bfloat16),
    (TopKGeometry(14, 256, 1), (56, 56), 4, 64, torch.bfloat16),
    (FAST, (56, 56), 6, 16, torch.bfloat16),
    (FAST, (56, 56), 3, 48, torch.bfloat16),
    (FAST, (56, 56), 3, 64, torch.bfloat16),
    (FAST, (56, 56), 3, 64, torch.float32),
]


def record(geometry, sides, heads, channels, dtype):
    """Start a forward and a backward pass on slices of one projection."""
    size = geometry.window_size
    grid = tuple(side // size for side in sides)
    levels = geometry.levels(*grid)
    maps = [
        torch.zeros(2, *level.shape, 3, heads, channels, dtype=dtype).unbind(3)
        for level in levels
    ]
    queries, keys, values = zip(*maps, strict=True)
    tables = [torch.zeros(heads, *bias_table_size(level, size)) for level in levels]
    call = launch.make_call(queries[0], keys, values, tables, geometry, channels**-0.5)
    out, lse = launch.forward(call)
    launch.backward(call, out, lse, torch.zeros_like(out), needs_tables=True)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_kernel_spills_registers(setting, monkeypatch, tmp_path):
    names = {*kernels_of(launch)}
    launches = record_launches(launch, monkeypatch, tmp_path)
    record(*setting)
    assert {kernel.__name__ for kernel, _, _ in launches} == names
    check_resources(launches, tmp_path)
