"""Compiling Triton kernels for a Hopper GPU, which needs none.

A launch is recorded in the place of being started; what Triton's launcher would compile
for it is compiled, and asked for its registers.
"""

import re
import subprocess

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

HOPPER = GPUTarget("cuda", 90, 32)
MOST_SHARED = 227 * 1024
"""Bytes of shared memory that a program may have."""

TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
    torch.int32: "i32",
}


def kernels_of(module):
    """Names of the kernels that a module launches."""
    return [name for name in vars(module) if name.endswith("_kernel")]


def record_launches(module, monkeypatch, cache):
    """The module's launches from now on, as (kernel, arguments, constants).

    Triton's cache of compiled kernels is put into the folder ``cache``.
    """
    recorded = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            return lambda *args, **constants: recorded.append(
                (self.kernel, args, constants)
            )

    for name in kernels_of(module):
        monkeypatch.setattr(module, name, Recorder(getattr(module, name)))
    monkeypatch.setattr(triton.knobs.cache, "dir", str(cache))
    return recorded


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


def check_resources(launches, folder):
    """Compile the recorded launches; assert that they fit, with nothing spilled."""
    wrong = []
    for kernel, args, constants in launches:
        compiled = compile_for_hopper(kernel, args, dict(constants))
        registers, stack, local = resources(compiled, folder)
        shared = compiled.metadata.shared
        figures = (
            f"{kernel.__name__} {constants.get('SIZE', '')}: {registers} registers, "
            f"{shared} bytes shared, {stack + local} spilled"
        )
        print(figures)
        if stack or local or shared > MOST_SHARED:
            wrong.append(figures)
    assert not wrong
