"""One image or one video: read, predict, draw, write."""

import json
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
import torch

from focal_mm.engine.image_demo.inputs import Source
from focal_mm.engine.image_demo.predictors import Predictor
from focal_mm.engine.image_demo.results import Job, Results

_FALLBACK_FPS = 25.0


class UnreadableError(Exception):
    """An input is no image or video that can be used; says why."""


def count_frames(source: Source) -> int:
    """Images in the input: 1, or what a video's header says."""
    if not source.is_video or not source.path.is_file():
        return 1
    with mmcv.VideoReader(str(source.path)) as video:
        return max(video.frame_cnt, 0)


def draw(
    job: Job, predictor: Predictor, results: Results, advance: Callable[[], None]
) -> list[str]:
    """Make all results of one input.

    Args:
        job: The input and the files to make.
        predictor: The model.
        results: The folder of the files.
        advance: Called after each image or frame.

    Returns:
        Lines for the user.

    Raises:
        UnreadableError: If the input cannot be used; nothing is left of it.
        UserError: If the results cannot be written.
    """
    make = _draw_video if job.source.is_video else _draw_image
    try:
        with results.writing(job) as files:
            return make(job, predictor, files, advance)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        raise UnreadableError("too large for the GPU's memory") from None


def _draw_image(
    job: Job,
    predictor: Predictor,
    files: Mapping[Path, Path],
    advance: Callable[[], None],
) -> list[str]:
    path = str(job.source.path)
    image = _read_image(path)
    # The path, as the config's pipeline may read images in a way of its own.
    sample = predictor.predict(path)
    if job.vis:
        drawn = predictor.draw(mmcv.bgr2rgb(image), sample)
        _write_image(mmcv.rgb2bgr(drawn), files[job.vis])
    if job.json:
        described = dict(input=path, **predictor.describe(sample))
        if job.label_map:
            _write_image(predictor.label_map(sample), files[job.label_map])
            described["sem_seg_path"] = job.label_map.name
        files[job.json].write_text(json.dumps(described))
    advance()
    return []


def _read_image(path: str) -> np.ndarray:
    try:
        image = mmcv.imread(path)
    except (OSError, cv2.error) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        raise UnreadableError(reason or "not an image") from None
    if image is None:
        raise UnreadableError("not an image")
    return image


def _write_image(image: np.ndarray, path: Path) -> None:
    if not mmcv.imwrite(image, str(path)):
        raise OSError(f"{path} was not written")


def _draw_video(
    job: Job,
    predictor: Predictor,
    files: Mapping[Path, Path],
    advance: Callable[[], None],
) -> list[str]:
    path = str(job.source.path)
    if not job.source.path.is_file():
        raise UnreadableError("no such file any more")
    notes = []
    with ExitStack() as stack:
        video = stack.enter_context(mmcv.VideoReader(path))
        frames = iter(video)
        first = next(frames, None) if video.opened else None
        if first is None:
            raise UnreadableError(
                "not a video, or of a codec that OpenCV cannot decode"
            )
        fps = video.fps
        if not 0 < fps < 1000:
            fps = _FALLBACK_FPS
            notes.append(f"{path} tells no frame rate: {fps:g} fps are taken")
        sinks = []
        if job.vis:
            size = first.shape[1::-1]
            write = stack.enter_context(_video_file(files[job.vis], fps, size))
            sinks.append(lambda frame, sample: write(predictor.draw(frame, sample)))
        if job.json:
            header = dict(input=path, fps=fps)
            add = stack.enter_context(_json_file(files[job.json], header))
            sinks.append(lambda frame, sample: add(predictor.describe(sample)))
        if job.label_map:
            store = stack.enter_context(_zip_file(files[job.label_map]))
            sinks.append(lambda frame, sample: store(predictor.label_map(sample)))
        count = 0
        frame = first
        while frame is not None:
            sample = predictor.predict(frame)
            for sink in sinks:
                sink(mmcv.bgr2rgb(frame), sample)
            count += 1
            advance()
            frame = next(frames, None)
        if count < video.frame_cnt:
            notes.append(
                f"{path}: {count} frames could be read of the {video.frame_cnt} that "
                "its header promises"
            )
    return notes


@contextmanager
def _video_file(
    path: Path, fps: float, size: tuple[int, int]
) -> Iterator[Callable[[np.ndarray], None]]:
    """A video file of the given (width, height); yields what adds an RGB frame.

    OpenCV encodes even sides: the last column or row of an odd one is lost.
    """
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), fps, size)
    try:
        if not writer.isOpened():
            raise OSError(f"OpenCV cannot write a video to {path}")
        yield lambda frame: writer.write(mmcv.rgb2bgr(frame))
    finally:
        writer.release()


@contextmanager
def _json_file(path: Path, header: dict) -> Iterator[Callable[[dict], None]]:
    """A JSON file of the header and a list ``frames``; yields what adds a frame.

    Frames go to the disk as they come: those of a long video may not fit in memory.
    """
    with path.open("w") as file:
        file.write(json.dumps(header)[:-1] + ', "frames": [')
        separator = "\n"

        def add(frame: dict[str, Any]) -> None:
            nonlocal separator
            file.write(separator + json.dumps(frame))
            separator = ",\n"

        yield add
        file.write("\n]}\n")


@contextmanager
def _zip_file(path: Path) -> Iterator[Callable[[np.ndarray], None]]:
    """A zip file of PNGs 000000.png, 000001.png, ...; yields what adds one."""
    with zipfile.ZipFile(path, "w") as archive:

        def add(image: np.ndarray) -> None:
            name = f"{len(archive.namelist()):06d}.png"
            archive.writestr(name, cv2.imencode(".png", image)[1].tobytes())

        yield add
