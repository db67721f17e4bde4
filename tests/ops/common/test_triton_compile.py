"""The Triton kernels compiled for a Hopper GPU, which needs none: no spills."""

import re
import subprocess

import pytest
import torch

from focal_mm.ops import FocalGeometry, TopKGeometry
from focal_mm.ops.common.triton import backend

if not backend._installed() or backend._interpreted():
    pytest.skip("needs triton, and not its interpreter", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

from focal_mm.ops.common.triton import kernels
from focal_mm.ops.topk.geometry import bias_table_size
from focal_mm.ops.topk.triton.launch import TopKCall
from focal_mm.ops.window.triton.launch import WindowCall

pytestmark = pytest.mark.slow

MOST_SHARED = 227 * 1024
"""Bytes of shared memory that a program may have."""

HALF, FULL = torch.bfloat16, torch.float32
DETECTION = FocalGeometry(7, 3, 15, 1)
CLASSIFICATION = FocalGeometry(7, 3, 7, 1)
FAST = TopKGeometry(7, 128, 1)
SETTINGS = [
    # Geometry, sides of the map, heads, channels of a head, dtype.
    (CLASSIFICATION, (56, 56), 3, 32, HALF),
    (CLASSIFICATION, (56, 56), 3, 32, torch.float16),
    (CLASSIFICATION, (56, 56), 3, 32, FULL),
    (FocalGeometry(7, 3, 5, 1), (28, 28), 6, 32, HALF),
    (FocalGeometry(7, 3, 3, 1), (14, 14), 12, 32, HALF),
    (FocalGeometry(7, 0, 1, 1), (7, 7), 24, 32, HALF),
    (FocalGeometry(7, 0, 1, 0), (7, 7), 1, 32, HALF),
    (DETECTION, (203, 203), 3, 32, HALF),
    (DETECTION, (203, 203), 3, 32, FULL),
    (FocalGeometry(7, 3, 13, 1), (98, 98), 8, 32, HALF),
    (FocalGeometry(7, 3, 7, 2, 3), (56, 56), 3, 32, HALF),
    (FocalGeometry(14, 7, 7, 2), (56, 56), 4, 32, HALF),
    (FocalGeometry(14, 7, 7, 2), (56, 56), 4, 64, HALF),
    (CLASSIFICATION, (56, 56), 6, 16, HALF),
    (CLASSIFICATION, (56, 56), 3, 48, HALF),
    (CLASSIFICATION, (56, 56), 3, 64, HALF),
    (CLASSIFICATION, (56, 56), 3, 64, FULL),
    (FAST, (56, 56), 3, 32, HALF),
    (FAST, (56, 56), 3, 32, torch.float16),
    (FAST, (56, 56), 3, 32, FULL),
    (FAST, (28, 28), 6, 32, HALF),
    (FAST, (14, 14), 12, 32, HALF),
    (FAST, (7, 7), 24, 32, HALF),
    (TopKGeometry(7, 128), (7, 7), 1, 32, HALF),
    (FAST, (203, 336), 3, 32, HALF),
    (FAST, (203, 336), 3, 32, FULL),
    (TopKGeometry(7, 49, 1), (35, 21), 3, 32, HALF),
    (TopKGeometry(14, 256, 1), (56, 56), 4, 32, HALF),
    (TopKGeometry(14, 256, 1), (56, 56), 4, 64, HALF),
    (FAST, (56, 56), 6, 16, HALF),
    (FAST, (56, 56), 3, 48, HALF),
    (FAST, (56, 56), 3, 64, HALF),
    (FAST, (56, 56), 3, 64, FULL),
]


class HopperDriver:
    """What Triton asks of a GPU before it compiles a kernel."""

    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 90, 32))


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The kernels started from now on: compiled for a Hopper GPU and not run."""
    kept = []
    run = JITFunction.run

    def compile_only(self, *args, grid, warmup, **kwargs):
        kept.append(run(self, *args, grid=grid, warmup=True, **kwargs))

    monkeypatch.setattr(JITFunction, "run", compile_only)
    monkeypatch.setattr(triton.runtime.driver, "_active", HopperDriver())
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    kernel_functions = [k for k in vars(kernels).values() if isinstance(k, JITFunction)]
    for kernel in kernel_functions:
        monkeypatch.setattr(
            kernel, "device_caches", type(kernel.device_caches)(kernel.create_binder)
        )
    return kept


def resources(kernel, folder):
    """Registers of a thread, bytes of stack and of spilled registers."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    report = subprocess.run(
        [tool, "-res-usage", str(cubin)], capture_output=True, text=True, check=True
    )
    match = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", report.stdout)
    return tuple(map(int, match.groups()))


def make_call(geometry, sides, heads, channels, dtype):
    """A call on slices of one projection per map."""
    size = geometry.window_size
    grid = tuple(side // size for side in sides)
    steps = (size, *map(geometry.stride, range(geometry.coarse_levels)))
    queries, keys, values = zip(
        *(
            torch.zeros(
                2, *(n * step for n in grid), 3, heads, channels, dtype=dtype
            ).unbind(3)
            for step in steps
        ),
        strict=True,
    )
    if isinstance(geometry, TopKGeometry):
        kind, levels = TopKCall, geometry.levels(*grid)
        shapes = [bias_table_size(level, size) for level in levels]
    else:
        kind, levels = WindowCall, range(geometry.coarse_levels)
        squares = (geometry.halo_size, *map(geometry.region_size, levels))
        shapes = [(size**2, square**2) for square in squares]
    biases = tuple(torch.zeros(heads, *shape) for shape in shapes)
    return kind(queries[0], keys, values, biases, geometry, channels**-0.5)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_kernel_spills_registers(setting, compiled, tmp_path):
    call = make_call(*setting)
    out, lse = call.forward()
    call.backward(out, lse, torch.zeros_like(out), needs_biases=True)
    assert len(compiled) == 2 + 2 * len(call.keys)
    wrong = []
    for kernel in compiled:
        registers, stack, local = resources(kernel, tmp_path)
        shared = kernel.metadata.shared
        figures = (
            f"{kernel.metadata.name}: {registers} registers, {shared} bytes shared, "
            f"{stack + local} spilled"
        )
        print(figures)
        if stack or local or shared > MOST_SHARED:
            wrong.append(figures)
    assert not wrong
