"""Speed of one layer's attention against a large product of matrices."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import common
from benchmarks.checks import check
from benchmarks.measure import Precision, make_progress, run_rounds, summary
from benchmarks.models import (
    KEY_SELECTIONS,
    REFERENCE,
    SETTINGS,
    WINDOW,
    choose_backends,
    settings_for,
)
from focal_mm.engine.config import describe
from focal_mm.engine.errors import run_guarded
from focal_mm.models.presets import ARCHS
from focal_mm.ops import FocalGeometry, TopKGeometry, focal_attention, topk_attention
from focal_mm.ops.topk.geometry import bias_table_size

PROGRAM = "python -m benchmarks.attention_layer"
DESCRIPTION = """\
Speed of one layer's attention (without projections) with each backend: forward, and
forward and backward, against a large product of matrices in the same dtype, timed in
the same rounds.

FLOP count two for each multiply-add of the products over distinct keys (two products
forward, four backward); what a kernel computes twice does not count. Every backend's
output and gradients are compared with 'naive' first: where one differs, nothing is
reported and the exit code is 1.
"""
FORWARD, BOTH = "forward", "forward+backward"
_PATCH = 4
# Side of the matrices that the ceiling is measured with.
_MATMUL = {"cpu": 2048, "cuda": 8192}


@dataclass(frozen=True)
class Layer:
    """The attention of a layer with two focal levels, without projections.

    Attributes:
        arch: Key of :data:`~focal_mm.models.presets.ARCHS`.
        stage: From 1.
        height, width: Of the image.
        batch: Images.
        key_selection: 'window' or 'topk'.
        settings: Key of :data:`~benchmarks.models.SETTINGS`, for 'window'.
    """

    arch: str
    stage: int
    height: int
    width: int
    batch: int
    key_selection: str
    settings: str

    @property
    def title(self) -> str:
        windows = f", focal windows of {self.settings}"
        return (
            f"{KEY_SELECTIONS[self.key_selection]}, stage {self.stage} of "
            f"{self.height}x{self.width}, batch {self.batch}"
            f"{windows if self.key_selection == 'window' else ''}"
        )

    @property
    def geometry(self) -> FocalGeometry | TopKGeometry:
        if self.key_selection == "topk":
            return TopKGeometry(WINDOW, coarse_levels=1)
        regions = {
            key: values[self.stage - 1]
            for key, values in SETTINGS[self.settings].items()
        }
        return FocalGeometry(
            WINDOW, regions["expand_sizes"], regions["focal_windows"], coarse_levels=1
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of windows of the padded map."""
        side = _PATCH * 2 ** (self.stage - 1) * WINDOW
        return -(-self.height // side), -(-self.width // side)

    def flops(self, run: str) -> int:
        """Of the products over distinct keys, two for each multiply-add."""
        geometry, (rows, cols) = self.geometry, self.grid
        if isinstance(geometry, TopKGeometry):
            keys = sum(level.num_keys for level in geometry.levels(rows, cols))
        else:
            keys = geometry.halo_size**2 + geometry.region_size(0) ** 2
        queries = self.batch * rows * cols * geometry.window_area
        channels = ARCHS[self.arch].embed_dims * 2 ** (self.stage - 1)
        return (2 if run == FORWARD else 6) * 2 * queries * keys * channels

    def make_inputs(self, batch: int, precision: Precision) -> dict[str, Tensor]:
        """Seeded noise in the layout of a layer: query, key and value side by side."""
        geometry, (rows, cols) = self.geometry, self.grid
        heads = ARCHS[self.arch].num_heads[self.stage - 1]
        channels = ARCHS[self.arch].embed_dims * 2 ** (self.stage - 1) // heads
        if isinstance(geometry, TopKGeometry):
            fine, pooled = geometry.levels(rows, cols)
            biases = {
                "fine_bias": bias_table_size(fine, WINDOW),
                "pooled_bias": bias_table_size(pooled, WINDOW),
            }
        else:
            area = geometry.window_area
            biases = {
                "fine_bias": (area, area),
                "pooled_bias": (area, geometry.region_size(0) ** 2),
            }
            if geometry.expand_size:
                biases["neighbor_bias"] = (area, geometry.num_neighbors)
        shapes = {
            "qkv": (batch, rows * WINDOW, cols * WINDOW, 3, heads, channels),
            "pooled_kv": (batch, rows, cols, 2, heads, channels),
            **{name: (heads, *shape) for name, shape in biases.items()},
        }
        generator = torch.Generator().manual_seed(0)
        return {
            name: torch.randn(shape, generator=generator).to(
                precision.device, precision.dtype
            )
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
        return focal_attention(
            *maps, fine, inputs.get("neighbor_bias"), [pooled], **options
        )

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
        out = layer.differentiate(inputs, backend)
        grads = {f"gradient of {key}": leaf.grad for key, leaf in inputs.items()}
        found = {"output": out.detach(), **grads}
        return {key: t.float() for key, t in found.items() if t is not None}

    check(backend, functools.partial(run, backend=backend), run, precision)


def measure_layer(
    layer: Layer, backends: Sequence[str], precision: Precision, rounds: int
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Check backends, then time them and the large product in alternating rounds.

    Returns:
        A row for each backend and pass, as in JSON, and by backend why it is skipped.

    Raises:
        benchmarks.checks.MismatchError: If a backend differs from ``naive``.
    """
    inputs = layer.make_inputs(layer.batch, precision)
    leaves = layer.make_inputs(layer.batch, precision)

    def forward(backend: str) -> None:
        with torch.inference_mode():
            layer.attend(inputs, backend)

    steps: dict[tuple[str, str], Callable[[], object]] = {}
    skipped = {}
    for backend in backends:
        try:
            # Raises what dispatch has to say before naive takes its time.
            forward(backend)
        except Exception as error:
            skipped[backend] = describe(error)
            continue
        check_layer(layer, backend, precision)
        steps[backend, FORWARD] = functools.partial(forward, backend)
        steps[backend, BOTH] = functools.partial(layer.differentiate, leaves, backend)
    side = _MATMUL[precision.device.type]
    a, b = (
        torch.randn(side, side).to(precision.device, precision.dtype) for _ in range(2)
    )
    steps["matmul", ""] = functools.partial(torch.mm, a, b)
    times = run_rounds(steps, rounds, precision.device)
    ceiling = 2 * side**3 / summary(times.pop(("matmul", "")))["median_seconds"]
    rows = []
    for (backend, run), seconds in times.items():
        row = {"title": layer.title, **asdict(layer), "backend": backend, "pass": run}
        row |= summary(seconds)
        rate = layer.flops(run) / row["median_seconds"]
        row |= {"flops_per_second": rate, "of_matmul": rate / ceiling}
        rows.append(row)
    return rows, skipped


COLUMNS: common.Columns = {
    "backend": lambda row: f"  {row['backend']}, {row['pass']}",
    **common.TIME_COLUMNS,
    "GFLOP/s": lambda row: f"{row['flops_per_second'] / 1e9:.0f}",
    "of a large\nproduct": lambda row: f"{row['of_matmul']:.0%}",
}


def run(argv: Sequence[str]) -> None:
    """Measure, print, write.

    Raises:
        UserError: If something is wrong with the arguments, or a backend differs.
    """
    parser = common.make_parser(PROGRAM, DESCRIPTION, ["224"], rounds=10)
    args = parser.parse_args(argv)
    precision, batches, document = common.prepare(args, PROGRAM, argv)
    layers = [
        Layer(
            args.arch,
            stage,
            *shape,
            batch,
            selection,
            args.settings or settings_for(shape),
        )
        for selection in dict.fromkeys(args.key_selection)
        for shape, batch in zip(args.sizes, batches, strict=True)
        for stage in range(1, len(ARCHS[args.arch].depths) + 1)
    ]
    with make_progress() as bar:
        for layer in bar.track(layers):
            bar.print(layer.title)
            backends, skipped = choose_backends(layer.key_selection, args.backends)
            rows, failed = measure_layer(layer, backends, precision, args.rounds)
            document["results"] += rows
            document["skipped"] |= skipped
            for name, reason in failed.items():
                document["skipped"][f"{name}, {layer.title},"] = reason
    common.report(document, COLUMNS, args.json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    given = sys.argv[1:] if argv is None else list(argv)
    return run_guarded(PROGRAM, lambda: run(given))


if __name__ == "__main__":
    sys.exit(main())
