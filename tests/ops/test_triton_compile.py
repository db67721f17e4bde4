"""The Triton kernels compiled for a Hopper GPU, which needs none: no spills."""

import re
import subprocess

import pytest
import torch

from focal_mm.ops import FocalGeometry
from focal_mm.ops.backends.triton import backend

if not backend._installed() or backend._interpreted():
    pytest.skip("needs triton, and not its interpreter", allow_module_level=True)

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from focal_mm.ops.backends.triton import launch

pytestmark = pytest.mark.slow

HOPPER = GPUTarget("cuda", 90, 32)
KERNELS = [name for name in vars(launch) if name.endswith("_kernel")]
TYPES = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
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


@pytest.fixture
def launches(monkeypatch, tmp_path):
    """Kernels with the arguments they would have been started with."""
    recorded = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **constants: recorded.append(
                (self.kernel, args, constants)
            )

    for name in KERNELS:
        monkeypatch.setattr(launch, name, Recorder(getattr(launch, name)))
    monkeypatch.setattr(triton.knobs.cache, "dir", str(tmp_path))
    return recorded


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


def compile_for_hopper(kernel, args, constants):
    """The cubin that Triton's launcher would make of these arguments."""
    options = {name: constants.pop(name) for name in ("num_warps", "num_stages")}
    signature, fixed, attributes = {}, {}, {}

    def specialise(value, path):
        if isinstance(value, tuple):
            return tuple(specialise(v, (*path, i)) for i, v in enumerate(value))
        if isinstance(value, float):
            return "fp32"
        if isinstance(value, int) and value == 1:
            fixed[path] = value
            return "constexpr"
        address = value if isinstance(value, int) else value.storage_offset()
        if address % 16 == 0:
            attributes[path] = [["tt.divisibility", 16]]
        return "i32" if isinstance(value, int) else "*" + TYPES[value.dtype]

    for index, name in enumerate(kernel.arg_names):
        if name in constants:
            signature[name], fixed[(index,)] = "constexpr", constants[name]
        else:
            signature[name] = specialise(args[index], (index,))
    source = ASTSource(kernel, signature, fixed, attributes)
    return triton.compile(source, target=HOPPER, options=options)


def resources(compiled, folder):
    """Registers of a thread, bytes of stack and of spilled registers."""
    cubin = folder / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    report = subprocess.run(
        [tool, "-res-usage", str(cubin)], capture_output=True, text=True, check=True
    )
    match = re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", report.stdout)
    return tuple(map(int, match.groups()))


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_kernel_spills_registers(setting, launches, tmp_path):
    record(*setting)
    assert {kernel.__name__ for kernel, _, _ in launches} == set(KERNELS)
    spilled = []
    for kernel, args, constants in launches:
        compiled = compile_for_hopper(kernel, args, dict(constants))
        registers, stack, local = resources(compiled, tmp_path)
        size = constants.get("SIZE", "")
        figures = (
            f"{kernel.__name__} {size}: {registers} registers, "
            f"{compiled.metadata.shared} bytes shared, {stack + local} spilled"
        )
        print(figures)
        if stack or local:
            spilled.append(figures)
    assert not spilled
