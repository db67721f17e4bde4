"""The command line, and the way from inputs to results."""

import argparse
import hashlib
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.device import get_device

from focal_mm.checkpoint import CheckpointError
from focal_mm.engine import cli, preflight
from focal_mm.engine.errors import UserError
from focal_mm.engine.image_demo.drawing import UnreadableError, count_frames, draw
from focal_mm.engine.image_demo.inputs import find_sources
from focal_mm.engine.image_demo.predictors import (
    DEFAULT_SCORE_THR,
    PREDICTORS,
    Predictor,
    build_predictor,
    check_device,
)
from focal_mm.engine.image_demo.progress import Progress
from focal_mm.engine.image_demo.results import Job, Results
from focal_mm.engine.loaders import use_safe_loaders

_NAMED_AT_MOST = 20


def parser() -> argparse.ArgumentParser:
    """The arguments of ``tools/image_demo.py``."""
    parser = cli.Parser(
        prog="image_demo.py",
        description="Draw the predictions of a detector, segmentor or classifier on "
        "images and videos.",
        epilog="What was drawn before with the same model and options is not drawn "
        "again: an interrupted command goes on where it was.",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="image or video, folder of them, or glob (quoted)",
    )
    parser.add_argument("--config", required=True, help="config file")
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint file or URL of the whole model"
    )
    parser.add_argument(
        "--out-dir",
        type=Path,
        default=Path("outputs"),
        help="folder of the results: vis/ holds drawn images and videos, preds/ "
        "predictions as JSON (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: a GPU if any)")
    parser.add_argument(
        "--score-thr",
        type=float,
        help="detection: score from which predictions are drawn (default: "
        f"{DEFAULT_SCORE_THR}); the JSON has all of them",
    )
    parser.add_argument("--no-save-vis", action="store_true", help="do not draw")
    parser.add_argument("--no-save-pred", action="store_true", help="write no JSON")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="draw again what was drawn, and replace files that are in the way",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=cli.Options,
        metavar="KEY=VALUE",
        help="change settings of the config, as in tools/test.py",
    )
    parser.set_defaults(launcher="none", work_dir=None, local_rank=0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw predictions: the command line ``tools/image_demo.py``.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        The exit code: 1 also if an input could not be read, when the results of the
        others are there. What the user can put right is one line on standard error.
    """
    args = parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _run(args)
    except (UserError, CheckpointError) as error:
        print(f"image_demo.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(
            f"image_demo.py: stopped; what is finished is in {args.out_dir}, the same "
            "command goes on from there",
            file=sys.stderr,
        )
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _run(args: argparse.Namespace) -> None:
    if args.no_save_vis and args.no_save_pred:
        raise UserError("--no-save-vis with --no-save-pred leaves nothing to do")
    sources = find_sources(args.inputs, args.out_dir)
    cfg = cli.load_config(args)
    _check_config(cfg, args)
    device = args.device or get_device()
    check_device(device)
    results = Results(
        args.out_dir,
        _settings(cfg, args),
        vis=not args.no_save_vis,
        pred=not args.no_save_pred,
        label_maps=PREDICTORS[cfg.default_scope].predicts_label_maps,
    )
    jobs = results.plan(sources, args.overwrite)
    bad: list[str] = []
    if jobs:
        notes = use_safe_loaders()
        predictor = build_predictor(cfg, args.checkpoint, device, args.score_thr)
        for note in notes + predictor.notes:
            print(f"note: {note}")
        bad = _process(jobs, predictor, results)
    before = len(sources) - len(jobs)
    done = f"{len(jobs) - len(bad)} of {len(sources)} inputs done"
    if before:
        done += f", {before} were done before (again: --overwrite)"
    print(f"{done}: results are in {args.out_dir}")
    if bad:
        named = "; ".join(bad[:_NAMED_AT_MOST])
        more = len(bad) - _NAMED_AT_MOST
        raise UserError(
            f"{len(bad)} of {len(sources)} inputs could not be read: {named}"
            + (f"; and {more} more" if more > 0 else "")
        )


def _process(jobs: Sequence[Job], predictor: Predictor, results: Results) -> list[str]:
    """Make all results; returns what could not be read, and why."""
    bad = []
    expected = [count_frames(job.source) for job in jobs]
    with Progress(sum(expected)) as progress:
        for job, frames in zip(jobs, expected, strict=True):
            start = progress.done
            try:
                notes = draw(job, predictor, results, progress.advance)
            except UnreadableError as error:
                bad.append(f"{job.source.path} ({error})")
                notes = [f"left out {job.source.path}: {error}"]
            for note in notes:
                progress.say(note)
            # Containers miscount their frames.
            progress.correct(start + frames)
    return bad


def _check_config(cfg: Config, args: argparse.Namespace) -> None:
    scope = cfg.get("default_scope")
    if scope not in PREDICTORS:
        raise UserError(
            f"{args.config}: default_scope must be one of {', '.join(PREDICTORS)}, "
            f"got {scope}"
        )
    preflight.check_inference(cfg, args.checkpoint)
    if args.score_thr is not None and scope != "mmdet":
        raise UserError(
            f"--score-thr is for detectors, the config's default_scope is {scope}"
        )
    dataset = (cfg.get("test_dataloader") or {}).get("dataset")
    if not dataset:
        raise UserError(f"{args.config} cannot be tested: it has no test_dataloader")


def _settings(cfg: Config, args: argparse.Namespace) -> str:
    """Digest of all that decides the results, inputs aside."""
    path = Path(args.checkpoint).expanduser()
    weights = [args.checkpoint]
    if path.is_file():
        status = path.stat()
        weights = [str(path.resolve()), status.st_size, status.st_mtime_ns]
    settings = [cfg.to_dict(), weights, args.score_thr]
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
