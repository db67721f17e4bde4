"""What ``tools/image_demo.py`` does: pictures and videos with predictions drawn."""

import argparse
import glob
import json
import os
import pkgutil
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from focal_mm.engine.check import check_checkpoint, check_library
from focal_mm.engine.config import load_config
from focal_mm.engine.errors import UserError, run_guarded
from focal_mm.engine.files import replacing
from focal_mm.engine.inferencers import Predictor
from focal_mm.engine.libraries import library_of
from focal_mm.engine.options import Parser, add_cfg_options

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv")
)
_FALLBACK_FPS = 25.0


class UnusableError(Exception):
    """An input is no image or video that can be used; says why."""


def parser() -> argparse.ArgumentParser:
    """The arguments of ``tools/image_demo.py``."""
    parser = Parser(
        prog="image_demo.py",
        description="Draw the predictions of a detector, segmentor or classifier on "
        "images and videos.",
        epilog="What is in the folder of results is not made again: an interrupted "
        "command goes on where it was.",
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
        "predictions as JSON, each at its input's path (default: %(default)s)",
    )
    parser.add_argument("--device", help="cpu, cuda:0, ... (default: a GPU if any)")
    parser.add_argument(
        "--score-thr",
        type=float,
        help="detection: score from which predictions are drawn (default: 0.3); the "
        "JSON has all of them",
    )
    parser.add_argument("--no-save-vis", action="store_true", help="do not draw")
    parser.add_argument("--no-save-pred", action="store_true", help="write no JSON")
    parser.add_argument(
        "--overwrite", action="store_true", help="make again what is there"
    )
    add_cfg_options(parser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Draw predictions: the command line ``tools/image_demo.py``.

    Args:
        argv: Arguments; by default those of the process.

    Returns:
        The exit code: 1 also if an input could not be used, when the results of the
        others are there. What the user can put right is one line on standard error.
    """
    args = parser().parse_args(argv)
    stopped = (
        f"stopped; what is finished is in {args.out_dir}, the same command goes on "
        "from there"
    )
    return run_guarded("image_demo.py", partial(_run, args), stopped)


def _run(args: argparse.Namespace) -> None:
    if args.no_save_vis and args.no_save_pred:
        raise UserError("--no-save-vis with --no-save-pred leaves nothing to do")
    sources = find_inputs(args.inputs, args.out_dir)
    cfg = load_config(args.config, args.cfg_options)
    library = library_of(cfg)
    _check(cfg, args)
    inputs, jobs = {source.resolve() for source in sources}, {}
    for source in sources:
        targets = _targets(source, args, library.label_maps)
        if not args.overwrite and all(path.exists() for path in targets.values()):
            continue
        for path in targets.values():
            if path.resolve() in inputs:
                raise UserError(
                    f"{path} is an input and would be overwritten: choose another "
                    "--out-dir"
                )
        jobs[source] = targets
    unusable = []
    if jobs:
        device = args.device or get_device()
        kind = pkgutil.resolve_name(library.predictor)
        predictor = kind(cfg, args.checkpoint, device, args.score_thr)
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


def find_inputs(inputs: Iterable[str], out_dir: Path) -> list[Path]:
    """Find the images and videos that the inputs mean.

    Args:
        inputs: Files (of any suffix), folders (images and videos directly in them) and
            globs (``**`` crosses folders; images and videos only).
        out_dir: Folder of results, which folders and globs do not find.

    Returns:
        Each file once, in the order of the inputs, a folder's and a glob's by name.

    Raises:
        UserError: If an input matches nothing.
    """
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    results = [(out_dir / name).resolve() for name in ("vis", "preds")]

    def is_input(path: Path) -> bool:
        # Hidden files are nobody's pictures, and unfinished results among them.
        return (
            path.suffix.lower() in known
            and not path.name.startswith(".")
            and path.is_file()
            and not any(path.resolve().is_relative_to(folder) for folder in results)
        )

    found: dict[Path, Path] = {}
    for text in inputs:
        path = Path(text)
        if path.is_file():
            matches = [path]
        else:
            paths = (
                path.iterdir() if path.is_dir() else glob.iglob(text, recursive=True)
            )
            matches = sorted(filter(is_input, map(Path, paths)))
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
        raise UserError(
            f"{args.config} cannot be tested: its test_dataloader.dataset has no "
            "pipeline"
        )
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
    ``vis`` is the drawn copy, ``preds`` are predictions as JSON, ``labels`` the label
    map as PNG, or those of a video as a zip file; each where it is wanted.
    """
    place = Path(os.path.abspath(source))
    here = Path.cwd()
    place = place.relative_to(here if place.is_relative_to(here) else place.anchor)
    is_video = _is_video(source)
    targets = {}
    if not args.no_save_vis:
        written = (".mp4",) if is_video else (".png", ".jpg", ".jpeg")
        suffix = "" if place.suffix.lower() in written else written[0]
        targets["vis"] = args.out_dir / "vis" / f"{place}{suffix}"
    if not args.no_save_pred:
        preds = args.out_dir / "preds" / place
        targets["preds"] = Path(f"{preds}.json")
        if label_maps:
            targets["labels"] = Path(f"{preds}{'.zip' if is_video else '.png'}")
    return targets


def _is_video(path: Path) -> bool:
    """Whether the suffix is a video's; a file of any other is taken as an image."""
    return path.suffix.lower() in VIDEO_SUFFIXES


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Images per second so far."""
        return Text(f"{task.completed / (task.elapsed or 1):.2f} images/s")


def _process(
    jobs: Mapping[Path, Mapping[str, Path]], predictor: Predictor
) -> list[str]:
    """Make all results; returns what could not be used, and why."""
    unusable = []
    expected = {source: _count_frames(source) for source in jobs}
    total = sum(expected.values())
    columns = (BarColumn(), MofNCompleteColumn(), _Rate())
    eta = (TextColumn("eta"), TimeRemainingColumn())
    with Progress(TextColumn("images"), *columns, *eta) as progress:
        task = progress.add_task("", total=total)
        for source, targets in jobs.items():
            start = progress.tasks[0].completed
            try:
                notes = draw(
                    source, targets, predictor, partial(progress.advance, task)
                )
            except UnusableError as error:
                unusable.append(f"{source} ({error})")
                notes = [f"left out {source}: {error}"]
            for note in notes:
                progress.console.print(
                    note, markup=False, highlight=False, soft_wrap=True
                )
            # Videos miscount their frames, and what cannot be used has none.
            total += progress.tasks[0].completed - start - expected[source]
            progress.update(task, total=total)
    return unusable


def _count_frames(source: Path) -> int:
    """Images in the input: 1, or what a video's header says."""
    if not _is_video(source):
        return 1
    with mmcv.VideoReader(str(source)) as video:
        return max(video.frame_cnt, 0)


def draw(
    source: Path,
    targets: Mapping[str, Path],
    predictor: Predictor,
    advance: Callable[[], None],
) -> list[str]:
    """Make all results of one input.

    Args:
        source: The image or video.
        targets: The files to make: ``vis``, ``preds``, ``labels``.
        predictor: The model.
        advance: Called after each image or frame.

    Returns:
        Lines for the user.

    Raises:
        UnusableError: If the input cannot be used; nothing is left of it.
        UserError: If the results cannot be written.
    """
    is_video = _is_video(source)
    with ExitStack() as stack:
        try:
            if is_video:
                media = stack.enter_context(mmcv.VideoReader(str(source)))
                readable = media.opened and media.read() is not None
            else:
                media = mmcv.imread(str(source))
                readable = media is not None
        except (OSError, cv2.error):
            readable = False
        if not readable:
            raise UnusableError(f"not a readable {'video' if is_video else 'image'}")
        files = {
            kind: stack.enter_context(replacing(path)) for kind, path in targets.items()
        }
        make = _draw_video if is_video else _draw_image
        try:
            return make(str(source), media, files, predictor, advance)
        except torch.cuda.OutOfMemoryError:
            raise UnusableError("too large for the GPU's memory") from None


def _draw_image(
    source: str,
    image: np.ndarray,
    files: Mapping[str, Path],
    predictor: Predictor,
    advance: Callable[[], None],
) -> list[str]:
    # The path, as the config's pipeline may read images in a way of its own.
    sample = predictor.predict(source)
    if "vis" in files:
        drawn = predictor.draw(mmcv.bgr2rgb(image), sample)
        mmcv.imwrite(mmcv.rgb2bgr(drawn), str(files["vis"]))
    if "preds" in files:
        described = dict(input=source, **predictor.describe(sample))
        files["preds"].write_text(_json(described))
    if "labels" in files:
        mmcv.imwrite(predictor.label_map(sample), str(files["labels"]))
    advance()
    return []


def _draw_video(
    source: str,
    video: mmcv.VideoReader,
    files: Mapping[str, Path],
    predictor: Predictor,
    advance: Callable[[], None],
) -> list[str]:
    notes, fps, count = [], video.fps, 0
    if not 0 < fps < 1000:
        fps = _FALLBACK_FPS
        notes.append(f"{source} tells no frame rate: {fps:g} fps are taken")
    with ExitStack() as stack:
        if "vis" in files:
            # OpenCV encodes even sides: the last column or row of an odd one is lost.
            code = cv2.VideoWriter_fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(files["vis"]), code, fps, video.resolution)
            stack.callback(writer.release)
        if "preds" in files:
            # Frames go to the disk as they come: a long video's may not fit in memory.
            file = stack.enter_context(files["preds"].open("w"))
            file.write(f'{{"input": {json.dumps(source)}, "fps": {fps}, "frames": [')
        if "labels" in files:
            archive = stack.enter_context(zipfile.ZipFile(files["labels"], "w"))
        for count, frame in enumerate(video, start=1):
            sample = predictor.predict(frame)
            if "vis" in files:
                drawn = predictor.draw(mmcv.bgr2rgb(frame), sample)
                writer.write(mmcv.rgb2bgr(drawn))
            if "preds" in files:
                file.write("\n" if count == 1 else ",\n")
                file.write(_json(predictor.describe(sample)))
            if "labels" in files:
                encoded = cv2.imencode(".png", predictor.label_map(sample))[1]
                archive.writestr(f"{count - 1:06d}.png", encoded.tobytes())
            advance()
        if "preds" in files:
            file.write("\n]}\n")
    if count < video.frame_cnt:
        notes.append(
            f"{source}: {count} frames could be read of the {video.frame_cnt} that its "
            "header promises"
        )
    return notes


def _json(data: Mapping[str, Any]) -> str:
    return json.dumps(data, default=lambda array: array.tolist())
