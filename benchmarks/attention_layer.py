"""Speed of one layer's attention against a large product of matrices."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.checks import check
from benchmarks.measure import Precision, run_rounds, summary
from benchmarks.models import (
    KEY_SELECTIONS,
    REFERENCE,
    SETTINGS,
    WINDOW,
    Shape,
    settings_for,
    usable_backends,
)
from focal_mm.engine.errors import run_guarded
from focal_mm.models.presets import ARCHS
from focal_mm.ops import FocalGeometry, TopKGeometry, focal_attention, topk_attention
from focal_mm.ops.topk.geometry import bias_table_size

PROGRAM = "python -m benchmarks.attention_layer"
DESCRIPTION = """\
Speed of one layer's attention (without projections) with each backend, forward and with
backward, against a large product of matrices in the same dtype and the same rounds.

FLOP are those of the products over distinct keys; what a kernel computes twice does not
count. Every backend's output and gradients are compared with 'naive' first: where one
differs, nothing is reported and the exit code is 1.
"""
_PATCH = 4
# Side of the matrices that the ceiling is measured with.
_MATMUL = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Layer:
    """The attention of a layer with two focal levels, without projections.

    Attributes:
        arch: Key of :data:`~focal_mm.models.presets.ARCHS`.
        stage: From 1.
        shape: (height, width) of the image.
        batch: Images.
        key_selection: 'window' or 'topk'.
        settings: Key of :data:`~benchmarks.models.SETTINGS`, for 'window'.
    """

    arch: str
    stage: int
    shape: Shape
    batch: int
    key_selection: str
    settings: str

    @property
    def title(self) -> str:
        height, width = self.shape
        name = KEY_SELECTIONS[self.key_selection]
        if self.key_selection == "window":
            name += f" with windows of {self.settings}"
        return f"{name}, stage {self.stage} of {height}x{width}, batch {self.batch}"

    @property
    def geometry(self) -> FocalGeometry | TopKGeometry:
        if self.key_selection == "topk":
            return TopKGeometry(WINDOW, coarse_levels=1)
        expand_sizes, focal_windows = (
            SETTINGS[self.settings][key] for key in ("expand_sizes", "focal_windows")
        )
        of = self.stage - 1
        return FocalGeometry(WINDOW, expand_sizes[of], focal_windows[of], 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of windows of the padded map."""
        side = _PATCH * 2 ** (self.stage - 1) * WINDOW
        rows, cols = (math.ceil(length / side) for length in self.shape)
        return rows, cols

    @property
    def heads(self) -> int:
        return ARCHS[self.arch].num_heads[self.stage - 1]

    @property
    def channels(self) -> int:
        """Of all heads."""
        return ARCHS[self.arch].embed_dims * 2 ** (self.stage - 1)

    @property
    def flops(self) -> int:
        """Of the forward products over distinct keys, two for each multiply-add."""
        geometry, (rows, cols) = self.geometry, self.grid
        if isinstance(geometry, TopKGeometry):
            keys = sum(level.num_keys for level in geometry.levels(rows, cols))
        else:
            keys = geometry.halo_size**2 + geometry.region_size(0) ** 2
        queries = self.batch * rows * cols * geometry.window_area
        return 4 * queries * keys * self.channels

    def make_inputs(self, batch: int, precision: Precision) -> dict[str, Tensor]:
        """Seeded noise in the layout of a layer: query, key and value side by side."""
        geometry, (rows, cols) = self.geometry, self.grid
        channels = self.channels // self.heads
        shapes: dict[str, tuple[int, ...]] = {
            "qkv": (batch, rows * WINDOW, cols * WINDOW, 3, self.heads, channels),
            "pooled_kv": (batch, rows, cols, 2, self.heads, channels),
        }
        if isinstance(geometry, TopKGeometry):
            fine, pooled = (
                bias_table_size(level, WINDOW) for level in geometry.levels(rows, cols)
            )
        else:
            area = geometry.window_area
            fine, pooled = (area, area), (area, geometry.region_size(0) ** 2)
            if geometry.expand_size:
                shapes["neighbor_bias"] = self.heads, area, geometry.num_neighbors
        shapes |= {"fine_bias": (self.heads, *fine)}
        shapes |= {"pooled_bias": (self.heads, *pooled)}
        generator = torch.Generator().manual_seed(0)
        return {
            name: torch.randn(shape, generator=generator).to(*precision)
            for name, shape in shapes.items()
        }

    def attend(self, inputs: dict[str, Tensor], backend: str) -> Tensor:
        """Call the op, (B, H, W, heads, channels)."""
        query, key, value = inputs["qkv"].unbind(-3)
        pooled_key, pooled_value = inputs["pooled_kv"].unbind(-3)
        maps = query, key, value, [pooled_key], [pooled_value]
        fine, pooled = inputs["fine_bias"], inputs["pooled_bias"]
        options = dict(geometry=self.geometry, backend=backend)
        if self.key_selection == "topk":
            return topk_attention(*maps, [fine, pooled], **options)
        neighbor = inputs.get("neighbor_bias")
        return focal_attention(*maps, fine, neighbor, [pooled], **options)

    def differentiate(self, inputs: dict[str, Tensor], backend: str) -> Tensor:
        """The output; the inputs have gradients then."""
        for tensor in inputs.values():
            tensor.requires_grad_(True).grad = None
        out = self.attend(inputs, backend)
        out.backward(out.detach())
        return out


def check_layer(layer: Layer, backend: str, precision: Precision) -> None:
    """Compare output and gradients of one image with ``naive``.

    Raises:
        benchmarks.checks.MismatchError: If they differ.
    """

    def run(how: Precision, backend: str = REFERENCE) -> dict[str, Tensor]:
        inputs = layer.make_inputs(1, how)
        found = {"output": layer.differentiate(inputs, backend).detach().float()}
        for name, leaf in inputs.items():
            if leaf.grad is not None:
                found[f"gradient of {name}"] = leaf.grad.float()
        return found

    check(backend, functools.partial(run, backend=backend), run, precision)


def measure_layer(
    layer: Layer,
    backends: Sequence[str],
    precision: Precision,
    rounds: int,
    document: dict[str, Any],
) -> None:
    """Check backends, then time them and the large product in alternating rounds.

    Adds a row for each backend and pass to the document's results.

    Raises:
        benchmarks.checks.MismatchError: If a backend differs from ``naive``.
    """
    inputs = layer.make_inputs(layer.batch, precision)
    steps: dict[tuple[str, str], Callable[[], object]] = {}
    for backend in backends:
        attend = torch.inference_mode()(layer.attend)
        forward = functools.partial(attend, inputs, backend)
        # Raises what dispatch has to say before naive takes its time.
        if common.attempt(document, f"{backend}, {layer.title}", forward) is None:
            continue
        check_layer(layer, backend, precision)
        steps[backend, "forward"] = forward
        both = functools.partial(layer.differentiate, inputs, backend)
        steps[backend, "forward+backward"] = both
    matrix = torch.randn(2 * [_MATMUL[precision.device.type]]).to(*precision)
    steps["matmul", ""] = functools.partial(torch.mm, matrix, matrix)
    times = run_rounds(steps, rounds, precision.device)
    product = summary(times.pop(("matmul", "")))
    ceiling = 2 * len(matrix) ** 3 / product["median_seconds"]
    for (backend, run), seconds in times.items():
        row = {"title": layer.title, **asdict(layer), "backend": backend, "pass": run}
        row |= summary(seconds)
        # Backward there are four products.
        flops = layer.flops * (1 if run == "forward" else 3)
        row["flops_per_second"] = flops / row["median_seconds"]
        row["of_matmul"] = row["flops_per_second"] / ceiling
        document["results"].append(row)


COLUMNS: common.Columns = {
    "backend": lambda row: f"  {row['backend']}, {row['pass']}",
    **common.TIME_COLUMNS,
    "GFLOP/s": lambda row: f"{row['flops_per_second'] / 1e9:.0f}",
    "of a large\nproduct": lambda row: f"{row['of_matmul']:.0%}",
}


def run(argv: Sequence[str] | None) -> None:
    """Measure, print, write.

    Raises:
        UserError: If something is wrong with the arguments, or a backend differs.
    """
    args = common.make_parser(PROGRAM, DESCRIPTION, ["224"], rounds=10).parse_args(argv)
    precision, batches, document = common.prepare(args)
    layers = [
        Layer(args.arch, stage, shape, batch, selection, settings)
        for selection in args.key_selection
        for shape, batch in zip(args.sizes, batches, strict=True)
        for settings in [args.settings or settings_for(shape)]
        for stage in range(1, len(ARCHS[args.arch].depths) + 1)
    ]
    for layer in common.track(layers):
        backends = args.backends or usable_backends(layer.key_selection)
        measure_layer(layer, backends, precision, args.rounds, document)
    common.report(document, COLUMNS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_guarded(PROGRAM, lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
