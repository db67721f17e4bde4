"""One layer's attention: its time against what the machine can do at best."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.checking import compare, describe, errors
from benchmarks.models import REFERENCE, SETTINGS, WINDOW, Shape
from benchmarks.steps import Precision
from benchmarks.timing import Times, run_rounds, synchronizer
from focal_mm.models.presets import Arch
from focal_mm.ops import FocalGeometry, focal_attention

PASSES = ("forward", "forward+backward")
_PATCH = 4
# Side of the matrices, and bytes of the tensor, that the ceilings are measured with.
_MATMUL = {"cpu": 2048, "cuda": 8192}
_COPY = {"cpu": 2**28, "cuda": 2**31}


@dataclass(frozen=True)
class Layer:
    """The attention of a model's layer, without projections.

    Attributes:
        arch: Size of the model.
        stage: 0-based.
        shape: (height, width) of the image.
        batch: Images.
        settings: Key of :data:`~benchmarks.models.SETTINGS`.
    """

    arch: Arch
    stage: int
    shape: Shape
    batch: int
    settings: str

    @property
    def geometry(self) -> FocalGeometry:
        regions = SETTINGS[self.settings]
        return FocalGeometry(
            window_size=WINDOW,
            expand_size=regions["expand_sizes"][self.stage],
            focal_window=regions["focal_windows"][self.stage],
            coarse_levels=1,
        )

    @property
    def tokens(self) -> Shape:
        """(height, width) of the map, padded to whole windows."""
        stride = _PATCH * 2**self.stage
        return tuple(-(-side // (stride * WINDOW)) * WINDOW for side in self.shape)

    @property
    def heads(self) -> int:
        return self.arch.num_heads[self.stage]

    @property
    def channels(self) -> int:
        """Of a head."""
        return self.arch.embed_dims * 2**self.stage // self.heads

    @property
    def _pooled(self) -> list[Shape]:
        geometry = self.geometry
        return [
            tuple(geometry.num_pooled(side, level) for side in self.tokens)
            for level in range(geometry.coarse_levels)
        ]

    @property
    def _keys(self) -> int:
        """Distinct keys of a query."""
        geometry = self.geometry
        levels = range(geometry.coarse_levels)
        return geometry.halo_size**2 + sum(
            geometry.region_size(level) ** 2 for level in levels
        )

    def flops(self, run: str) -> int:
        """Floating-point operations, two for each multiply-add, of the products.

        Two products forward and four backward, over the distinct keys; what a kernel
        computes a second time does not count.
        """
        height, width = self.tokens
        queries = self.batch * height * width * self.heads
        product = 2 * queries * self._keys * self.channels
        return product * (2 if run == "forward" else 6)

    def bytes_moved(self, run: str, dtype: torch.dtype) -> int:
        """Bytes that must be read and written at least.

        Forward: query, key, value, pooled ones and biases in, the output out. Backward:
        these, the output and its gradient in, and a gradient for each input out.
        """
        height, width = self.tokens
        width_of_token = self.batch * self.heads * self.channels
        tokens = height * width * width_of_token
        pooled = 2 * width_of_token * sum(rows * cols for rows, cols in self._pooled)
        biases = self.heads * self.geometry.window_area * self._keys
        inputs = 3 * tokens + pooled + biases
        forward = inputs + tokens
        backward = inputs + 2 * tokens + inputs
        elements = forward + (0 if run == "forward" else backward)
        return elements * dtype.itemsize

    def make_inputs(self, batch: int, precision: Precision) -> dict[str, Tensor]:
        """Seeded noise in the layout of a layer: query, key and value side by side."""
        generator = torch.Generator().manual_seed(0)
        geometry, heads = self.geometry, self.heads
        area = geometry.window_area
        shapes = {"qkv": (batch, *self.tokens, 3, heads, self.channels)}
        for level, grid in enumerate(self._pooled):
            shapes[f"pooled_kv.{level}"] = (batch, *grid, 2, heads, self.channels)
            region = geometry.region_size(level) ** 2
            shapes[f"pooled_bias.{level}"] = (heads, area, region)
        shapes["window_bias"] = (heads, area, area)
        if geometry.expand_size:
            shapes["neighbor_bias"] = (heads, area, geometry.num_neighbors)
        return {
            name: torch.randn(shape, generator=generator).to(
                precision.device, precision.dtype
            )
            for name, shape in shapes.items()
        }

    def attend(self, inputs: dict[str, Tensor], backend: str) -> Tensor:
        """Call the op, (B, H, W, heads, channels)."""
        levels = range(self.geometry.coarse_levels)
        pooled = [inputs[f"pooled_kv.{level}"].unbind(-3) for level in levels]
        return focal_attention(
            *inputs["qkv"].unbind(-3),
            [key for key, _ in pooled],
            [value for _, value in pooled],
            inputs["window_bias"],
            inputs.get("neighbor_bias"),
            [inputs[f"pooled_bias.{level}"] for level in levels],
            geometry=self.geometry,
            backend=backend,
        )


def _run_backward(layer: Layer, inputs: dict[str, Tensor], backend: str) -> Tensor:
    for tensor in inputs.values():
        tensor.requires_grad_(True).grad = None
    out = layer.attend(inputs, backend)
    out.backward(out.detach())
    return out


def check_layer(layer: Layer, backend: str, precision: Precision) -> None:
    """Compare outputs and gradients of one image with ``naive``.

    Raises:
        benchmarks.checking.MismatchError: If they differ.
    """

    def run(backend: str, how: Precision) -> dict[str, Tensor]:
        inputs = layer.make_inputs(1, how)
        out = _run_backward(layer, inputs, backend)
        grads = {f"gradient of {k}": v.grad.float() for k, v in inputs.items()}
        return {"output": out.detach().float(), **grads}

    exact = Precision(precision.device)
    expected = run(REFERENCE, exact)
    compare(backend, run(backend, exact), expected, exact.dtype)
    if precision != exact:
        noise = errors(REFERENCE, run(REFERENCE, precision), expected)
        compare(backend, run(backend, precision), expected, precision.dtype, noise)


@dataclass(frozen=True)
class Ceilings:
    """What this machine reached in the same run.

    Attributes:
        flops_per_second: Of a large product of matrices in the dtype.
        bytes_per_second: Of a large copy, read and written.
    """

    flops_per_second: float
    bytes_per_second: float


def measure_layer(
    layer: Layer,
    backends: Sequence[str],
    precision: Precision,
    rounds: int,
    repeats: int,
) -> tuple[dict[tuple[str, str], Times], Ceilings, dict[str, str]]:
    """Check backends, then time them and the ceilings in alternating rounds.

    Returns:
        Times by (backend, pass), the ceilings, and by backend why it could not run.

    Raises:
        benchmarks.checking.MismatchError: If a backend differs from ``naive``.
    """
    steps: dict[Any, Callable[[], object]] = {}
    failed = {}
    for backend in backends:
        inputs = layer.make_inputs(layer.batch, precision)
        leaves = layer.make_inputs(layer.batch, precision)

        def forward(backend: str = backend, inputs: dict[str, Tensor] = inputs) -> None:
            with torch.inference_mode():
                layer.attend(inputs, backend)

        def backward(
            backend: str = backend, leaves: dict[str, Tensor] = leaves
        ) -> None:
            _run_backward(layer, leaves, backend)

        try:
            # Raises what dispatch has to say before naive takes its time.
            forward()
        except Exception as error:
            failed[backend] = describe(error)
            continue
        check_layer(layer, backend, precision)
        backward()
        steps |= {(backend, PASSES[0]): forward, (backend, PASSES[1]): backward}
    device = precision.device
    side = _MATMUL[device.type]
    a, b = (torch.randn(side, side).to(device, precision.dtype) for _ in range(2))
    source = torch.ones(_COPY[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    steps |= {"matmul": lambda: a @ b, "copy": lambda: target.copy_(source)}
    for step in steps.values():
        step()
    times = run_rounds(steps, rounds, repeats, synchronizer(device))
    ceilings = Ceilings(
        2 * side**3 / times.pop("matmul").best,
        2 * source.numel() / times.pop("copy").best,
    )
    return times, ceilings, failed


def row(
    layer: Layer,
    backend: str,
    run: str,
    times: Times,
    ceilings: Ceilings,
    dtype: torch.dtype,
) -> dict[str, Any]:
    """What one backend reached in one pass; as ``--json`` has it."""
    flops, moved = layer.flops(run), layer.bytes_moved(run, dtype)
    floor = max(flops / ceilings.flops_per_second, moved / ceilings.bytes_per_second)
    return {
        "stage": layer.stage + 1,
        "height": layer.shape[0],
        "width": layer.shape[1],
        "batch": layer.batch,
        "settings": layer.settings,
        "backend": backend,
        "pass": run,
        "seconds": list(times.seconds),
        "best_seconds": times.best,
        "median_seconds": times.median,
        "flops": flops,
        "bytes": moved,
        "flops_per_second": flops / times.best,
        "bytes_per_second": moved / times.best,
        "matmul_flops_per_second": ceilings.flops_per_second,
        "copy_bytes_per_second": ceilings.bytes_per_second,
        "of_matmul": flops / times.best / ceilings.flops_per_second,
        "of_copy": moved / times.best / ceilings.bytes_per_second,
        "of_roofline": floor / times.best,
    }
