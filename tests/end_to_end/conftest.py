"""A toy data set, and the real recipe at toy size, through the real command lines."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mmengine.config import Config

from demo.toy.formats import CocoSpec
from demo.toy.shapes import CLASSES

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "det" / "mask_rcnn_focal_tiny_3x.py"

WIDTH = 32
MODEL = {
    "backbone.arch": dict(
        _delete_=True, embed_dims=16, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]
    ),
    "neck.in_channels": [16, 32, 64, 128],
    "neck.out_channels": WIDTH,
    "rpn_head.in_channels": WIDTH,
    "rpn_head.feat_channels": WIDTH,
    "roi_head.bbox_roi_extractor.out_channels": WIDTH,
    "roi_head.mask_roi_extractor.out_channels": WIDTH,
    "roi_head.bbox_head.in_channels": WIDTH,
    "roi_head.bbox_head.fc_out_channels": WIDTH,
    "roi_head.bbox_head.num_classes": len(CLASSES),
    "roi_head.mask_head.in_channels": WIDTH,
    "roi_head.mask_head.conv_out_channels": WIDTH,
    "roi_head.mask_head.num_classes": len(CLASSES),
    "train_cfg.rpn_proposal.max_per_img": 64,
    "train_cfg.rcnn.sampler.num": 32,
}


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "toy"
    CocoSpec(num_train=16, num_val=4, size=192).write(root)
    return root


@pytest.fixture(scope="session")
def toy_config(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Mask R-CNN config at toy size: six iterations, a checkpoint after each 3.

    What draws random numbers is the recipe's: stochastic depth, resizes and flips,
    the samplers of anchors and proposals.
    """
    cfg = Config.fromfile(CONFIG)
    options = {f"model.{key}": value for key, value in MODEL.items()}
    for split in ("train", "val", "test"):
        loader = f"{split}_dataloader"
        options |= {
            f"{loader}.num_workers": 0,
            f"{loader}.persistent_workers": False,
            f"{loader}.dataset.data_root": f"{toy_data}/",
            f"{loader}.dataset.metainfo": dict(classes=CLASSES),
        }
    annotations = str(toy_data / "annotations" / "instances_val2017.json")
    options |= {
        # (Shorter, longest) sides; in the recipe 480 to 800 and 1333.
        "train_dataloader.dataset.pipeline.2.transforms.1.0.scales": [
            (96, 192),
            (128, 192),
        ],
        "train_dataloader.sampler.type": "InfiniteSampler",
        "test_dataloader.dataset.pipeline.1.scale": (192, 128),
        "test_evaluator.ann_file": annotations,
        "default_hooks.checkpoint.interval": 3,
        "default_hooks.checkpoint.by_epoch": False,
        "default_hooks.checkpoint.save_best": None,
        "default_hooks.logger.interval": 1,
        "log_processor.by_epoch": False,
        "log_processor.window_size": 1,
        "randomness": dict(seed=0),
        # A rate at which six iterations change the losses.
        "optim_wrapper.optimizer.lr": 1e-3,
    }
    cfg.merge_from_dict(options)
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.1, end=6, by_epoch=False)
    ]
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=6)
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    path = tmp_path_factory.mktemp("config") / "toy_mask_rcnn.py"
    cfg.dump(path)
    return path


def free_port() -> str:
    with socket.socket() as any_port:
        any_port.bind(("127.0.0.1", 0))
        return str(any_port.getsockname()[1])


@pytest.fixture(scope="session")
def run_tool() -> Callable[..., str]:
    """Runs a program of tools/ on the CPU and returns what it printed."""

    def run(script: str, *args: str | Path, code: int = 0) -> str:
        env = {**os.environ, "PYTHON": sys.executable, "PORT": free_port()}
        # The processes of a test are those it asks for, whatever machine it runs on.
        env |= {"CUDA_VISIBLE_DEVICES": "-1"}
        env.pop("OMP_NUM_THREADS", None)
        # Here configs find signal_hook.
        paths = (str(ROOT), str(Path(__file__).parent), env.get("PYTHONPATH"))
        env["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        python = [sys.executable] if script.endswith(".py") else []
        done = subprocess.run(
            [*python, ROOT / "tools" / script, *map(str, args)],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
        )
        assert done.returncode == code, done.stdout[-5000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def unbroken_run(
    toy_config: Path, run_tool: Callable[..., str], tmp_path_factory
) -> tuple[Path, str]:
    """Work dir and output of six iterations in two processes."""
    work_dir = tmp_path_factory.mktemp("unbroken")
    return work_dir, run_tool("dist_train.sh", toy_config, 2, "--work-dir", work_dir)
