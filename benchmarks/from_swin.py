"""What a Focal Transformer keeps of a trained Swin, and how soon it has the rest.

    python -m benchmarks.from_swin det     # or cls; half an hour on an idle CPU core

Trains a Swin on toy data and a Focal Transformer of the same size by the same schedule,
both from random weights. Then the Swin is converted, with and without the fit to its
activations, and trained on by half the schedule, as is the Swin itself. What is
finished is kept, so the command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from mmengine.config import Config
from mmengine.hooks import Hook
from rich.console import Console
from rich.table import Table

from demo.toy.folder import ToySpec
from demo.toy.formats import CocoSpec, ImageFolderSpec
from focal_mm.checkpoint import convert_swin
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import run_guarded
from focal_mm.engine.files import replacing
from focal_mm.engine.fit_images import read_images
from focal_mm.engine.launch import build_runner
from focal_mm.engine.options import Parser
from focal_mm.models.presets import parse_arch

Curve = Sequence[tuple[int, float]]
"""Iterations from 0 on, and the metric after them."""

PROGRAM = "python -m benchmarks.from_swin"
ROOT = Path(__file__).resolve().parents[1]

_IMAGE_SIZE = 224
"""To which the images are resized for the fit, in pixels."""
_EVALUATIONS = 6
"""Of a training from random weights, beside the one before it; others have twice as
many."""
_FINE_TUNING = 0.3
"""Learning rate of what has been trained before, over that of random weights."""


@dataclass(frozen=True)
class Task:
    """What is learnt.

    Attributes:
        config: Config of the Focal Transformer.
        data: The toy data.
        images: Folder of training images in it.
        metric: What is compared, as the library's metric calls it.
        iterations: Of a training from random weights.
        changes: Settings of the config that differ, by dotted key.
        swin: Arguments of the library's Swin beside those of the Focal Transformer.
    """

    config: str
    data: ToySpec
    images: str
    metric: str
    iterations: int
    changes: Mapping[str, Any] = field(default_factory=dict)
    swin: Mapping[str, Any] = field(default_factory=dict)


_NARROW = dict(
    _delete_=True, embed_dims=48, depths=[2, 2, 2, 2], num_heads=[3, 6, 12, 24]
)

TASKS = {
    "det": Task(
        "demo/configs/atss_shapes.py",
        CocoSpec(),
        "train2017",
        "coco/bbox_mAP",
        iterations=600,
    ),
    "cls": Task(
        "demo/configs/focal_tiny_shapes.py",
        ImageFolderSpec(),
        "train",
        "accuracy/top1",
        iterations=96,
        changes={"model.backbone.arch": _NARROW, "model.head.in_channels": 384},
        # Its maps are smaller than a window.
        swin=dict(pad_small_map=True),
    ),
}


@dataclass(frozen=True)
class Start:
    """One training.

    Attributes:
        title: What table and plot call it.
        swin: Whether the backbone is the Swin.
        weights: File that it starts from, in the folder of all; None for random ones.
    """

    title: str
    swin: bool = False
    weights: str | None = None


STARTS = {
    "swin": Start("Swin, random", swin=True),
    "fitted": Start("Focal, Swin's converted and fitted", weights="fitted.pth"),
    "converted": Start("Focal, Swin's converted", weights="converted.pth"),
    "random": Start("Focal, random"),
    "swin_on": Start("Swin, trained on", swin=True, weights="swin.pth"),
}


class EvaluateFirst(Hook):
    """Evaluates before the first iteration too."""

    def before_train(self, runner: Any) -> None:
        """Run the validation loop on what was loaded."""
        runner.val_loop.run()


def config_of(task: Task, out: Path, start: Start) -> Config:
    """The config of one training, in the folder of all."""
    cfg = load_config(ROOT / task.config, task.changes)
    backbone = cfg.model.backbone
    if start.swin:
        arch = parse_arch(backbone.arch)._asdict()
        if cfg.default_scope == "mmpretrain":
            arch = {"arch": arch}
        cfg.model.backbone = dict(
            type="SwinTransformer",
            window_size=backbone.window_size,
            drop_path_rate=backbone.drop_path_rate,
            out_indices=backbone.out_indices,
            **arch,
            **task.swin,
        )
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f"{out}/data/"
    if "ann_file" in cfg.test_evaluator:
        annotations = "data/annotations/instances_val2017.json"
        cfg.test_evaluator.ann_file = f"{out}/{annotations}"
    cfg.val_dataloader, cfg.val_evaluator = cfg.test_dataloader, cfg.test_evaluator
    cfg.val_cfg = dict(type="ValLoop")
    iterations, evaluations = task.iterations, _EVALUATIONS
    if start.weights:
        cfg.load_from = str(out / start.weights)
        cfg.optim_wrapper.optimizer.lr *= _FINE_TUNING
        iterations, evaluations = iterations // 2, 2 * evaluations
    cfg.train_cfg = dict(
        type="IterBasedTrainLoop",
        max_iters=iterations,
        val_interval=iterations // evaluations,
    )
    warm_up = iterations // 20
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, end=warm_up),
        dict(
            type="CosineAnnealingLR",
            by_epoch=False,
            begin=warm_up,
            end=iterations,
            eta_min_ratio=0.02,
        ),
    ]
    cfg.log_processor = dict(by_epoch=False, window_size=10)
    cfg.default_hooks.logger.log_metric_by_epoch = False
    cfg.default_hooks.checkpoint = dict(
        type="CheckpointHook", by_epoch=False, interval=iterations
    )
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type=EvaluateFirst)]
    return cfg


def train(name: str, task: Task, out: Path) -> Curve:
    """Do the training of that name, unless it is done."""
    curve = out / f"{name}.json"
    if not curve.exists():
        cfg = config_of(task, out, STARTS[name])
        cfg.work_dir, cfg.experiment_name = str(out / name), name
        # Visualizers of one name are one in a process, with the first one's folder.
        cfg.visualizer.name = name
        runner = build_runner(cfg, [])
        runner.train()
        scalars = Path(runner.log_dir, "vis_data/scalars.json")
        lines = map(json.loads, scalars.read_text().splitlines())
        metric = task.metric
        found = {line["step"]: line[metric] for line in lines if metric in line}
        # COCO's metric writes nothing where nothing is detected.
        points = [
            (step, found.get(step, 0.0))
            for step in range(0, runner.max_iters + 1, cfg.train_cfg.val_interval)
        ]
        if name == "swin":
            make_starts(runner.model.state_dict(), out, task)
        with replacing(curve) as partial:
            partial.write_text(json.dumps(points))
    return json.loads(curve.read_text())


def make_starts(swin: Mapping[str, Any], out: Path, task: Task) -> None:
    """Write the weights that the other trainings start from."""
    images = read_images(out / "data" / task.images, _IMAGE_SIZE)
    for name, weights in (
        ("swin", swin),
        ("converted", convert_swin(swin)),
        ("fitted", convert_swin(swin, images)),
    ):
        with replacing(out / f"{name}.pth") as partial:
            torch.save({"state_dict": weights, "meta": {}}, partial)


def summary(curves: Mapping[str, Curve]) -> Table:
    """What each training had at once, when it had what the Swin came to, and its end.

    Args:
        curves: By name of the training.
    """
    goal = curves["swin"][-1][1]
    table = Table("backbone and weights", "at once", f"iterations to {goal:.3g}", "end")
    for name, curve in curves.items():
        reached = next((str(step) for step, value in curve if value >= goal), "never")
        (_, first), (last_step, last) = curve[0], curve[-1]
        end = f"{last:.3g} after {last_step}"
        table.add_row(STARTS[name].title, f"{first:.3g}", reached, end)
    return table


def draw(curves: Mapping[str, Curve], metric: str, path: Path) -> None:
    """Draw the metric over iterations into a PNG."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axis = figure.subplots()
    for name, curve in curves.items():
        axis.plot(*zip(*curve, strict=True), ".-", label=STARTS[name].title)
    axis.axhline(curves["swin"][-1][1], color="gray", linestyle=":")
    axis.set(xlabel="iterations", ylabel=metric, xlim=(0, None), ylim=(0, None))
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    with replacing(path) as partial:
        figure.savefig(partial, dpi=100, format="png")


def run(argv: Sequence[str] | None) -> None:
    """Train all, print and draw."""
    parser = Parser(
        prog=PROGRAM,
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=TASKS)
    parser.add_argument(
        "--out",
        type=Path,
        default=ROOT / "work_dirs/from_swin",
        help="folder of data, trainings and curves (default: %(default)s)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="PNG", help="draw the curves into a picture"
    )
    args = parser.parse_args(argv)
    task, out = TASKS[args.task], args.out.absolute() / args.task
    torch.set_num_threads(1)
    task.data.write(out / "data")
    curves = {name: train(name, task, out) for name in STARTS}
    Console().print(summary(curves))
    if args.plot:
        draw(curves, task.metric, args.plot)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_guarded(PROGRAM, lambda: run(argv))


if __name__ == "__main__":
    sys.exit(main())
