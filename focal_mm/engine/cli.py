"""Arguments of ``tools/train.py`` and ``tools/test.py``, and what they do to a config.

They are those of MMDetection's tools, for detection, segmentation and classification
alike: the config's ``default_scope`` decides where the libraries differ.
"""

import argparse
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NoReturn

from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import find_latest_checkpoint

from focal_mm.engine.errors import UserError

# What each library's visualization hook calls things. Every image is drawn.
_VISUALIZATION = {
    "mmdet": {"on": {"draw": True}, "folder": "test_out_dir"},
    "mmseg": {"on": {"draw": True}, "folder": None},
    "mmpretrain": {"on": {"enable": True, "interval": 1}, "folder": "out_dir"},
}
_DUMP_METRICS = {"mmdet": "DumpDetResults"}
_FLIP = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (--help shows all options)\n")


class Options(DictAction):
    """``KEY=VALUE`` pairs; a malformed one is an argument error."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        for pair in values or ():
            key, equals, _ = pair.partition("=")
            if not equals or not all(key.split(".")):
                raise argparse.ArgumentError(
                    self, f"{pair!r} is not of the form key.subkey=value"
                )
        try:
            super().__call__(parser, namespace, values, option_string)
        except AssertionError as error:
            raise argparse.ArgumentError(self, str(error)) from None


def train_parser() -> argparse.ArgumentParser:
    """The arguments of ``tools/train.py``."""
    parser = Parser(prog="train.py", description="Train a model.")
    parser.add_argument("config", help="config file")
    _add_common(parser, "folder for logs and checkpoints")
    parser.add_argument(
        "--amp", action="store_true", help="automatic mixed precision training"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate by batch size / auto_scale_lr.base_batch_size",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="resume from a checkpoint, by default the latest in the work dir",
    )
    return parser


def test_parser() -> argparse.ArgumentParser:
    """The arguments of ``tools/test.py``."""
    parser = Parser(prog="test.py", description="Test (and evaluate) a model.")
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    _add_common(parser, "folder for logs and metrics")
    parser.add_argument(
        "--out",
        help="dump the predictions to this .pkl file; with mmseg also a folder, for "
        "label maps as PNG",
    )
    parser.add_argument("--show", action="store_true", help="show the predictions")
    parser.add_argument(
        "--show-dir",
        help="draw the predictions into this folder, which mmdet places in "
        "WORK_DIR/TIMESTAMP",
    )
    parser.add_argument(
        "--wait-time", type=float, default=2, help="seconds between images of --show"
    )
    parser.add_argument("--tta", action="store_true", help="test-time augmentation")
    return parser


def _add_common(parser: argparse.ArgumentParser, work_dir_help: str) -> None:
    parser.add_argument(
        "--work-dir", help=f"{work_dir_help} (default: work_dirs/CONFIG_NAME)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=Options,
        metavar="KEY=VALUE",
        help="change settings of the config: model.backbone.drop_path_rate=0.1; "
        'lists as key="[a,b]", tuples as key="(a,b)"',
    )
    parser.add_argument(
        "--launcher",
        choices=("none", "pytorch", "slurm", "mpi"),
        default="none",
        help="how the processes were started",
    )
    parser.add_argument(
        "--check",
        action="store_true",
        help="check arguments, config, data and checkpoints, and stop",
    )
    # Launchers older than torchrun pass it; newer ones set the variable.
    parser.add_argument(
        "--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS
    )


def load_config(args: argparse.Namespace) -> Config:
    """The config of the command line: file, ``--cfg-options``, launcher, work dir.

    Raises:
        UserError: If the file or an option does not make a config.
    """
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    if not Path(args.config).is_file():
        raise UserError(f"there is no config file {args.config}")
    try:
        cfg = Config.fromfile(args.config)
    except Exception as error:
        # Whatever its code raises, it is the config that must be changed.
        raise UserError(
            f"{args.config} is not a readable config: {_one_line(error)}"
        ) from error
    try:
        cfg.merge_from_dict(args.cfg_options or {})
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(
            f"--cfg-options do not fit {args.config}: {_one_line(error)}"
        ) from None
    if not isinstance(cfg.get("model"), dict):
        raise UserError(f"{args.config} is not a config to run: it has no model")
    _complete_init_cfgs(cfg.model)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = f"./work_dirs/{Path(args.config).stem}"
    return cfg


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    place = ""
    if isinstance(error, SyntaxError) and error.lineno:
        place = f", line {error.lineno}"
    return f"{type(error).__name__}: {text}{place}"


def _complete_init_cfgs(node: Any) -> None:
    """Let ``init_cfg.checkpoint=PATH`` alone mean pretrained weights."""
    if isinstance(node, dict):
        init_cfg = node.get("init_cfg")
        if isinstance(init_cfg, dict) and "checkpoint" in init_cfg:
            init_cfg.setdefault("type", "Pretrained")
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            _complete_init_cfgs(child)


def apply_train_args(cfg: Config, args: argparse.Namespace) -> list[str]:
    """Apply the arguments of training to a config.

    Args:
        cfg: As ``load_config`` returns it; changed in place.
        args: Of ``train_parser``.

    Returns:
        Lines for the log.

    Raises:
        UserError: If the config has no place for an argument.
    """
    if args.amp:
        wrapper = cfg.get("optim_wrapper") or {}
        if wrapper.get("type") not in ("OptimWrapper", "AmpOptimWrapper"):
            raise UserError(
                "--amp needs optim_wrapper.type to be OptimWrapper or AmpOptimWrapper, "
                f"but the config has {wrapper.get('type')}"
            )
        wrapper.type = "AmpOptimWrapper"
        wrapper.setdefault("loss_scale", "dynamic")
    if args.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise UserError("--auto-scale-lr needs auto_scale_lr.base_batch_size")
        cfg.auto_scale_lr.enable = True
    notes = _apply_resume(cfg, args.resume) if args.resume else []
    return notes + _scratch_note(cfg)


def _apply_resume(cfg: Config, resume: str) -> list[str]:
    cfg.resume = True
    if resume != "auto":
        cfg.load_from = resume
        return []
    folder = Path(cfg.work_dir)
    if not (folder / "last_checkpoint").is_file():
        # load_from stays: a job that always says --resume may start by it.
        cfg.resume = False
        return [f"--resume: no checkpoint in {cfg.work_dir}, starting anew"]
    latest = Path(find_latest_checkpoint(cfg.work_dir))
    if not latest.exists() and (folder / latest.name).exists():
        # The folder was moved since.
        latest = folder / latest.name
    cfg.load_from = str(latest)
    return []


def _scratch_note(cfg: Config) -> list[str]:
    """Says that a dense predictor's backbone has no pretrained weights."""
    backbone = cfg.model.get("backbone")
    if (
        cfg.get("default_scope") not in ("mmdet", "mmseg")
        or not isinstance(backbone, dict)
        or cfg.get("load_from")
        or cfg.get("resume")
    ):
        return []
    if any(
        part.get("pretrained") or "checkpoint" in (part.get("init_cfg") or {})
        for part in (cfg.model, backbone)
    ):
        return []
    return [
        "the backbone trains from scratch: for pretrained weights pass --cfg-options "
        "model.backbone.init_cfg.checkpoint=PATH"
    ]


def apply_test_args(cfg: Config, args: argparse.Namespace) -> list[str]:
    """Apply the arguments of testing to a config.

    Args:
        cfg: As ``load_config`` returns it; changed in place.
        args: Of ``test_parser``.

    Returns:
        Lines for the log.

    Raises:
        UserError: If the config has no place for an argument.
    """
    cfg.load_from = args.checkpoint
    for part in ("test_dataloader", "test_evaluator"):
        if not cfg.get(part):
            raise UserError(f"{args.config} cannot be tested: it has no {part}")
    scope = cfg.get("default_scope", "mmengine")
    if args.show or args.show_dir:
        _apply_visualization(cfg, args, scope)
    if args.tta:
        _apply_tta(cfg, scope)
    if args.out:
        _apply_out(cfg, args.out, scope)
    if args.launcher != "none" and (args.show or args.show_dir):
        return [
            "the visualizers draw in the first process only: of several processes, "
            "the images of the others are not drawn"
        ]
    return []


def _apply_visualization(cfg: Config, args: argparse.Namespace, scope: str) -> None:
    hook = cfg.get("default_hooks", {}).get("visualization")
    if hook is None or scope not in _VISUALIZATION:
        raise UserError(
            "--show and --show-dir need the visualization hook of mmdet, mmseg or "
            "mmpretrain as default_hooks.visualization"
        )
    if args.tta and scope == "mmpretrain":
        raise UserError("mmpretrain cannot draw predictions of --tta: leave one out")
    names = _VISUALIZATION[scope]
    hook.update(names["on"])
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir and names["folder"]:
        hook[names["folder"]] = args.show_dir
    elif args.show_dir:
        cfg.visualizer.save_dir = args.show_dir


def _apply_tta(cfg: Config, scope: str) -> None:
    if "tta_model" in cfg and cfg.model.get("type") == cfg.tta_model.get("type"):
        # As a run with --tta left its config in the work dir.
        return
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    if "tta_model" not in cfg or "tta_pipeline" not in cfg:
        default = _default_tta(cfg, scope, dataset.get("pipeline"))
        for name, value in default.items():
            cfg.setdefault(name, value)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    dataset.pipeline = cfg.tta_pipeline


def _default_tta(cfg: Config, scope: str, pipeline: list[dict]) -> dict:
    """A horizontal flip, its results merged as the library does."""
    if scope == "mmdet":
        # mmdet's own merges boxes only. Ours is named in full: nothing may have
        # imported it, and importing it here would need mmdet before that is checked.
        masks = _has_mask_head(cfg.model)
        model = dict(
            type="focal_mm.det.tta.DetMaskTTAModel" if masks else "DetTTAModel",
            tta_cfg=dict(nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
        )
        keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
        pack = dict(type="PackDetInputs", meta_keys=(*keys, "flip", "flip_direction"))
    elif scope == "mmpretrain":
        model, pack = dict(type="mmpretrain.AverageClsScoreTTA"), deepcopy(pipeline[-1])
    else:
        raise UserError("--tta needs tta_model and tta_pipeline in the config")
    augment = dict(type="TestTimeAug", transforms=[deepcopy(_FLIP), [pack]])
    return dict(tta_model=model, tta_pipeline=[*deepcopy(pipeline[:-1]), augment])


def _has_mask_head(node: Any) -> bool:
    if isinstance(node, dict):
        return bool(node.get("mask_head")) or any(map(_has_mask_head, node.values()))
    return isinstance(node, (list, tuple)) and any(map(_has_mask_head, node))


def _apply_out(cfg: Config, out: str, scope: str) -> None:
    if not out.endswith((".pkl", ".pickle")):
        if scope != "mmseg":
            raise UserError(f"--out must end with .pkl or .pickle, got {out}")
        for metric in _metrics(cfg):
            metric.update(output_dir=out, keep_results=True)
        return
    kind = _DUMP_METRICS.get(scope, "DumpResults")
    metrics = [*_metrics(cfg), ConfigDict(type=kind, out_file_path=out)]
    if "metrics" in cfg.test_evaluator:
        cfg.test_evaluator.metrics = metrics
    else:
        cfg.test_evaluator = metrics


def _metrics(cfg: Config) -> list[dict]:
    evaluator = cfg.test_evaluator
    if isinstance(evaluator, dict):
        evaluator = evaluator.get("metrics", evaluator)
    return list(evaluator) if isinstance(evaluator, (list, tuple)) else [evaluator]
