"""What ``tools/image_demo.py`` does: pictures and videos with predictions drawn."""

import argparse
import glob
import json
import os
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import cv2
import mmcv
import torch
from mmengine.config import Config
from mmengine.device import get_device
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress

from focal_mm.engine.checks import check_checkpoint, check_library
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.files import replacing
from focal_mm.engine.inferencers import Predictor
from focal_mm.engine.libraries import library_of
from focal_mm.engine.options import Parser, add_allow_partial, add_cfg_options

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm")
)
VIDEO_SUFFIXES = frozenset(
    # As an image, OpenCV would read the first frame of a GIF only.
    {
        *(".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"),
        *(".flv", ".gif"),
    }
)


class UnusableError(Exception):
    """An input is no image or video that can be used; says why."""


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="image_demo.py",
        description="Draw the predictions of a detector, segmentor or classifier on "
        "images and videos.",
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
        help="folder of results: vis/ and preds/ (JSON), each at its input's path "
        "(default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: a GPU if any)")
    parser.add_argument(
        "--score-thr",
        type=float,
        help="detection: score from which predictions are drawn (default: 0.3)",
    )
    parser.add_argument("--no-save-vis", action="store_true", help="do not draw")
    parser.add_argument("--no-save-pred", action="store_true", help="write no JSON")
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="make again what is there; without, an interrupted command goes on",
    )
    add_allow_partial(parser)
    add_cfg_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of drawing predictions.

    Returns:
        The exit code: 1 also if an input could not be used, when the results of the
        others are there.
    """
    args = _parser().parse_args(argv)
    stopped = (
        f"stopped; what is finished is in {args.out_dir}, the same command goes on "
        "from there"
    )
    return run_guarded("image_demo.py", partial(_run, args), stopped)


def _run(args: argparse.Namespace) -> None:
    if args.no_save_vis and args.no_save_pred:
        raise UserError("--no-save-vis with --no-save-pred leaves nothing to do")
    sources = _find_inputs(args.inputs, args.out_dir)
    cfg = load_config(args.config, args.cfg_options)
    library = library_of(cfg)
    _check(cfg, args)
    jobs = {}
    for source in sources:
        targets = _targets(source, args, library.label_maps)
        if args.overwrite or not all(path.exists() for path in targets.values()):
            jobs[source] = targets
    unusable = []
    if jobs:
        kind = pkgutil.resolve_name(library.predictor)
        device = args.device or get_device()
        predictor = kind(
            cfg, args.checkpoint, device, args.score_thr, args.allow_partial
        )
        for note in predictor.notes:
            print(f"note: {note}")
        unusable = _process(jobs, predictor)
    before = len(sources) - len(jobs)
    done = f"{len(jobs) - len(unusable)} of {len(sources)} inputs done"
    if before:
        done += f", the results of {before} were there (--overwrite makes them again)"
    print(f"{done}: results are in {args.out_dir}")
    if unusable:
        raise UserError(
            f"{len(unusable)} of {len(sources)} inputs could not be used: "
            f"{'; '.join(unusable)}"
        )


def _find_inputs(inputs: Iterable[str], out_dir: Path) -> list[Path]:
    """Images and videos in files, folders and globs, each once; results are none.

    Raises:
        UserError: If an input matches nothing.
    """
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    results = [(out_dir / name).resolve() for name in ("vis", "preds")]
    found: dict[Path, Path] = {}
    for text in inputs:
        pattern = os.path.join(glob.escape(text), "*") if os.path.isdir(text) else text
        # The name of a file may look like a glob.
        names = [text] if os.path.isfile(text) else glob.glob(pattern, recursive=True)
        matches = [
            path
            for path in map(Path, sorted(names))
            if path.suffix.lower() in known
            and path.is_file()
            and not any(path.resolve().is_relative_to(folder) for folder in results)
        ]
        if not matches:
            raise UserError(
                f"{text} matches no image or video (results in {out_dir} left out): "
                f"name files, folders with {' '.join(sorted(known))}, or globs of them"
            )
        for match in matches:
            found.setdefault(match.resolve(), match)
    return list(found.values())


def _check(cfg: Config, args: argparse.Namespace) -> None:
    """Raise a UserError for what can be told before a model is built."""
    check_library(cfg)
    if args.score_thr is not None and cfg.default_scope != "mmdet":
        raise UserError(
            "--score-thr is for detectors, the config's default_scope is "
            f"{cfg.default_scope}"
        )
    if "pipeline" not in ((cfg.get("test_dataloader") or {}).get("dataset") or {}):
        raise UserError(f"{args.config} has no test_dataloader.dataset.pipeline")
    check_checkpoint("--checkpoint", args.checkpoint)
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"--device {args.device} cannot be used: {reason}") from None


def _targets(
    source: Path, args: argparse.Namespace, label_maps: bool
) -> dict[str, Path]:
    """Where the results of an input go: its path again, below the folder of results.

    Whole paths tell files of the same name apart, whatever else a command names.
    ``vis`` is the drawn copy, ``preds`` are predictions as JSON, ``labels`` is the
    label map of an image as PNG; each where it is wanted.
    """
    place = Path(os.path.abspath(source))
    here = Path.cwd()
    place = place.relative_to(here if place.is_relative_to(here) else place.anchor)
    targets = {}
    if not args.no_save_vis:
        is_other_video = _is_video(source) and place.suffix.lower() != ".mp4"
        suffix = ".mp4" if is_other_video else ""
        targets["vis"] = args.out_dir / "vis" / f"{place}{suffix}"
    if not args.no_save_pred:
        targets["preds"] = args.out_dir / "preds" / f"{place}.json"
        if label_maps and not _is_video(source):
            targets["labels"] = args.out_dir / "preds" / f"{place}.png"
    return targets


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _process(
    jobs: Mapping[Path, Mapping[str, Path]], predictor: Predictor
) -> list[str]:
    """Make all results; returns what could not be used, and why: nothing is left of it.

    Raises:
        UserError: If results cannot be written.
    """
    unusable = []
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn()) as progress:
        for source, targets in progress.track(jobs.items(), description="inputs"):
            try:
                with ExitStack() as stack:
                    files = {
                        kind: stack.enter_context(replacing(path))
                        for kind, path in targets.items()
                    }
                    if _is_video(source):
                        _draw_video(str(source), files, predictor, progress)
                    else:
                        _draw_image(str(source), files, predictor)
            except UnusableError as error:
                unusable.append(f"{source} ({error})")
            except cv2.error as error:
                unusable.append(f"{source} ({' '.join(str(error).split())})")
            except torch.cuda.OutOfMemoryError:
                unusable.append(f"{source} (too large for the GPU's memory)")
    return unusable


def _draw_image(source: str, files: Mapping[str, Path], predictor: Predictor) -> None:
    image = cv2.imread(source)
    if image is None:
        raise UnusableError("not a readable image")
    # The path, as the config's pipeline may read images in a way of its own.
    sample = predictor.predict(source)
    if "vis" in files:
        cv2.imwrite(str(files["vis"]), predictor.draw(image, sample))
    if "preds" in files:
        described = dict(input=source, **predictor.describe(sample))
        files["preds"].write_text(json.dumps(described))
    if "labels" in files:
        cv2.imwrite(str(files["labels"]), predictor.label_map(sample))


def _draw_video(
    source: str,
    files: Mapping[str, Path],
    predictor: Predictor,
    progress: Progress,
) -> None:
    with mmcv.VideoReader(source) as video, ExitStack() as stack:
        if not video.opened or not video.fps > 0:
            raise UnusableError("not a readable video with a frame rate")
        if "vis" in files:
            # OpenCV encodes even sides: the last column or row of an odd one is lost.
            code = cv2.VideoWriter_fourcc(*"mp4v")
            path = str(files["vis"])
            writer = cv2.VideoWriter(path, code, video.fps, video.resolution)
            stack.callback(writer.release)
        if "preds" in files:
            # Frames go to the disk as they come: a long video's may not fit in memory.
            file = stack.enter_context(files["preds"].open("w"))
            header = json.dumps(dict(input=source, fps=video.fps))
            file.write(f'{header[:-1]}, "frames": [')
        # Headers miscount: what can be read decides.
        name, total = escape(source), video.frame_cnt
        frames = progress.track(video, total=total, description=name)
        count = 0
        for count, frame in enumerate(frames, start=1):
            sample = predictor.predict(frame)
            if "vis" in files:
                writer.write(predictor.draw(frame, sample))
            if "preds" in files:
                file.write("\n" if count == 1 else ",\n")
                file.write(json.dumps(predictor.describe(sample)))
        if count == 0:
            raise UnusableError("no frame of it can be read")
        if "preds" in files:
            file.write("\n]}\n")
