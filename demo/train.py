"""Train, evaluate and draw Mask R-CNN with Focal-Tiny on toy shapes, in minutes.

The steps are those of a real run and use the same commands: data, tools/dist_train.sh,
tools/dist_test.sh, pictures. Finished steps are kept and a stopped training is resumed.
"""

import argparse
import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, DictAction
from mmengine.device import get_device
from rich.console import Console
from rich.table import Table

from demo.toy.coco import CocoSpec, write_coco
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.files import replacing

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "demo/configs/mask_rcnn_focal_tiny_shapes.py"
MIN_BOX_AP50 = 0.30
"""Below it the detector has not learnt the task, and the demo fails."""

NUM_PICTURES = 12
_IMAGES_PER_STEP = 2
_METRICS = ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50")


def num_processes() -> int:
    """One process for each GPU, two at most; two on a CPU."""
    return {"cuda": min(torch.cuda.device_count(), 2), "cpu": 2}.get(get_device(), 1)


def write_config(out: Path, options: Mapping[str, Any]) -> Config:
    """Write ``config.py``, the demo's config for this folder and this machine.

    Args:
        out: Folder of everything the demo makes.
        options: Further changes, as ``--cfg-options`` parses them.

    Raises:
        UserError: If the folder holds a demo with other settings.
    """
    data = f"{out}/data/"
    changes = {
        "train_dataloader.dataset.data_root": data,
        "test_dataloader.dataset.data_root": data,
        "test_evaluator.ann_file": f"{data}annotations/instances_val2017.json",
        # The schedule is made for so many images in a step.
        "train_dataloader.batch_size": _IMAGES_PER_STEP // num_processes(),
    }
    cfg = load_config(CONFIG, {**changes, **options})
    path = out / "config.py"
    if not path.exists():
        with replacing(path) as partial:
            partial.write_text(cfg.pretty_text)
    elif path.read_text() != cfg.pretty_text:
        raise UserError(
            f"{out} holds a demo with other settings: choose another folder by --out "
            "or remove it"
        )
    return cfg


def train(out: Path, cfg: Config) -> Path:
    """Train, or go on training, or find it done; returns the checkpoint."""
    checkpoint = out / f"train/iter_{cfg.train_cfg.max_iters}.pth"
    last = out / "train/last_checkpoint"
    # Written when the checkpoint that it names is complete.
    if last.exists() and Path(last.read_text().strip()).name == checkpoint.name:
        print(f"already trained: {checkpoint}; to start over, remove {out}")
        return checkpoint
    run_tool("dist_train.sh", out, "train", *(["--resume"] if last.exists() else []))
    return checkpoint


def evaluate(out: Path, checkpoint: Path) -> dict[str, float]:
    """Evaluate, or find it done; returns the metrics that the test wrote."""
    if not list(out.glob("test/*/*.json")):
        run_tool("dist_test.sh", out, "test", checkpoint=checkpoint)
    return json.loads(max(out.glob("test/*/*.json")).read_text())


def run_tool(
    script: str, out: Path, folder: str, *more: str, checkpoint: Path | None = None
) -> None:
    """Run a script of ``tools/`` on the demo's config, its output being shown.

    Raises:
        UserError: If it fails.
    """
    model = [out / "config.py", *([checkpoint] if checkpoint else [])]
    words = (f"tools/{script}", *model, num_processes(), "--work-dir", out / folder)
    command = [*map(str, words), *more]
    print(f"$ {shlex.join(command)}", flush=True)
    with socket.create_server(("127.0.0.1", 0)) as any_port:
        port = str(any_port.getsockname()[1])
    env = {"PORT": port, **os.environ, "PYTHON": sys.executable}
    with subprocess.Popen(command, cwd=ROOT, env=env) as process:
        try:
            code = process.wait()
        finally:
            # Where this process is stopped, torchrun and its workers stop too.
            process.terminate()
            process.wait()
    if code:
        raise UserError(f"tools/{script} failed (exit code {code}), see above")


def run(out: Path, spec: CocoSpec, options: Mapping[str, Any]) -> None:
    """Do all steps and print the closing table.

    Raises:
        UserError: If a step failed or the detector has not learnt.
    """
    cfg = write_config(out, options)
    write_coco(out / "data", spec, progress=True)
    checkpoint = train(out, cfg)
    metrics = evaluate(out, checkpoint)
    # Only now, as it takes memory that the training may need.
    from demo.pictures import draw_predictions

    draw_predictions(cfg, checkpoint, NUM_PICTURES, out / "pictures")

    table = Table(title="Mask R-CNN with Focal-Tiny on toy shapes", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name in _METRICS:
        table.add_row(name, f"{metrics[f'coco/{name}']:.3f}")
    table.add_row("checkpoint", str(checkpoint))
    table.add_row("pictures", f"{out}/pictures (ground truth left, prediction right)")
    Console().print(table)
    box_ap50 = metrics["coco/bbox_mAP_50"]
    if box_ap50 < MIN_BOX_AP50:
        raise UserError(
            f"box AP50 is {box_ap50:.3f}, below {MIN_BOX_AP50:.2f}: the detector has "
            "not learnt the shapes"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=lambda path: Path(path).absolute(),
        default=ROOT / "work_dirs/demo",
        help="folder for data, checkpoints and pictures (default: %(default)s)",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=DictAction,
        default={},
        help="changes to the config, as in tools/train.py",
    )
    args = parser.parse_args(argv)
    return run_guarded(
        "demo",
        lambda: run(args.out, CocoSpec(), args.cfg_options),
        stopped="stopped; the same command goes on from here",
    )


if __name__ == "__main__":
    sys.exit(main())
