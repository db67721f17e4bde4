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
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.device import get_device

from demo.toy.formats import CocoSpec
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError, run_guarded

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "demo/configs/mask_rcnn_focal_tiny_shapes.py"
MIN_BOX_AP50 = 0.30
"""Below it the detector has not learnt the task, and the demo fails."""

NUM_PICTURES = 12
_IMAGES_PER_STEP = 2


def num_processes() -> int:
    """One process for each GPU, two at most; two on a CPU."""
    return {"cuda": min(torch.cuda.device_count(), 2), "cpu": 2}.get(get_device(), 1)


def config_for(out: Path) -> Config:
    """The demo's config for the folder of everything that it makes and this machine."""
    data = f"{out}/data/"
    changes = {
        "train_dataloader.dataset.data_root": data,
        "test_dataloader.dataset.data_root": data,
        "test_evaluator.ann_file": f"{data}annotations/instances_val2017.json",
        # The schedule is made for so many images in a step.
        "train_dataloader.batch_size": _IMAGES_PER_STEP // num_processes(),
    }
    return load_config(CONFIG, changes)


def run_tool(script: str, *words: object) -> None:
    """Run a script of ``tools/``, its output being shown.

    Raises:
        UserError: If it fails.
    """
    command = [f"tools/{script}", *map(str, words)]
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


def run(out: Path, spec: CocoSpec) -> None:
    """Do all steps that are not done in the folder ``out`` and print the results.

    Raises:
        UserError: If a step failed or the detector has not learnt.
    """
    spec.write(out / "data")
    cfg = config_for(out)
    config, train, test = (out / name for name in (CONFIG.name, "train", "test"))
    config.write_text(cfg.pretty_text)

    checkpoint = train / f"iter_{cfg.train_cfg.max_iters}.pth"
    last = train / "last_checkpoint"
    # Written when the checkpoint that it names is complete.
    if last.exists() and Path(last.read_text().strip()).name == checkpoint.name:
        print(f"already trained: {checkpoint}; to start over, remove {out}")
    else:
        folder = ("--work-dir", train)
        run_tool("dist_train.sh", config, num_processes(), *folder, "--resume")
    if not list(test.glob("*/*.json")):
        folder = ("--work-dir", test)
        run_tool("dist_test.sh", config, checkpoint, num_processes(), *folder)
    metrics = json.loads(max(test.glob("*/*.json")).read_text())
    # Only now, as it takes memory that the training may need.
    from demo.pictures import draw_predictions

    draw_predictions(cfg, checkpoint, NUM_PICTURES, out / "pictures")

    print("\nMask R-CNN with Focal-Tiny on toy shapes")
    for name in ("bbox_mAP", "bbox_mAP_50", "segm_mAP", "segm_mAP_50"):
        print(f"{name:11} {metrics[f'coco/{name}']:.3f}")
    print(f"checkpoint  {checkpoint}")
    print(f"pictures    {out}/pictures (ground truth left, prediction right)")
    box_ap50 = metrics["coco/bbox_mAP_50"]
    if box_ap50 < MIN_BOX_AP50:
        raise UserError(
            f"box AP50 is {box_ap50:.3f}, below {MIN_BOX_AP50:.2f}: the detector has "
            "not learnt the shapes"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m demo.train", description=__doc__)
    parser.add_argument(
        "--out",
        type=lambda path: Path(path).absolute(),
        default=ROOT / "work_dirs/demo",
        help="folder for data, checkpoints and pictures (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    return run_guarded(
        "demo",
        lambda: run(args.out, CocoSpec()),
        stopped="stopped; the same command goes on from here",
    )


if __name__ == "__main__":
    sys.exit(main())
