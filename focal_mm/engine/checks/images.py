"""What the headers and the ends of image files tell, for many files at once."""

import hashlib
import json
import os
import warnings
from collections.abc import Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from rich.console import Console
from rich.progress import track

from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing

CACHED_FROM = 1000
"""Fewer files than that are looked at anew each time: it takes less than a second."""

_END = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xae\x42\x60\x82"}
_ROTATED = {5, 6, 7, 8}
_LABEL_MODES = {"1", "L", "P", "I;16", "I"}


class Look(NamedTuple):
    """What a file is.

    Attributes:
        problem: Why it cannot be used: 'missing', 'unreadable', 'truncated' or another
            word or two; '' if it can.
        width: In pixels, as OpenCV loads it: turned as its EXIF orientation says.
        height: In pixels.
        labels: Values that a label map has; () for other images.
    """

    problem: str
    width: int = 0
    height: int = 0
    labels: tuple[int, ...] = ()


def look(path: str, is_label_map: bool = False) -> Look:
    """Look at a file: its header and its end; of a label map, all of it.

    Damage between whole header and end is not seen. Where a JPEG or PNG does not end as
    it should, and for other formats, the image is decoded to be sure.
    """
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            # Of large images and odd EXIF.
            warnings.simplefilter("ignore")
            return _look(file, is_label_map)
    except FileNotFoundError:
        return Look("missing")
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return Look("unreadable")
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return Look("truncated" if "truncated" in str(error) else "unreadable")


def _look(file: BinaryIO, is_label_map: bool) -> Look:
    if not os.fstat(file.fileno()).st_size:
        return Look("empty")
    with Image.open(file) as image:
        width, height = image.size
        if image.getexif().get(ExifTags.Base.Orientation) in _ROTATED:
            width, height = height, width
        if is_label_map and image.mode not in _LABEL_MODES:
            return Look(f"no label map but {image.mode}", width, height)
        labels = ()
        if is_label_map:
            labels = tuple(np.unique(np.asarray(image)).tolist())
        elif not _ends_whole(file, image.format):
            image.load()
    return Look("", width, height, labels)


def _ends_whole(file: BinaryIO, kind: str | None) -> bool:
    if kind not in _END:
        return False
    position = file.tell()
    file.seek(max(0, file.seek(0, os.SEEK_END) - 64))
    tail = file.read().rstrip(b"\0\r\n ")
    file.seek(position)
    return tail.endswith(_END[kind])


def look_at_all(
    paths: Iterable[str], label_maps: Collection[str] = (), title: str = "images"
) -> dict[str, Look]:
    """Look at many files in parallel, at those that have changed since the last time.

    That is kept by modification time and size in the user's cache folder
    (``$XDG_CACHE_HOME/focal_mm``), also when it is interrupted.

    Args:
        paths: Files.
        label_maps: Which of them are label maps.
        title: What to call them while it takes time.

    Returns:
        What each is.
    """
    paths = list(dict.fromkeys(paths))
    cache = _cache_of(paths) if len(paths) >= CACHED_FROM else None
    known = _read(cache) if cache else {}
    stamps, looks = {}, {}

    def work(path: str) -> tuple[str, list[int] | None, Look]:
        try:
            status = os.stat(path)
        except OSError:
            return path, None, look(path, path in label_maps)
        stamp = [status.st_mtime_ns, status.st_size, path in label_maps]
        before = known.get(path)
        if before and before[0] == stamp:
            return path, stamp, Look(*before[1][:3], tuple(before[1][3]))
        return path, stamp, look(path, path in label_maps)

    # Reading waits for disks more than it computes.
    with ThreadPoolExecutor(4 * (os.cpu_count() or 1)) as pool:
        results = pool.map(work, paths)
        if cache:
            console = Console(stderr=True)
            description = f"looking at {len(paths)} {title}"
            results = track(results, description, len(paths), console=console)
        try:
            for path, stamp, found in results:
                looks[path] = found
                stamps[path] = stamp
        finally:
            new = {
                path: (stamp, looks[path]) for path, stamp in stamps.items() if stamp
            }
            if cache and any(list(known.get(p, ()))[:1] != [new[p][0]] for p in new):
                _write(cache, {**known, **new})
            pool.shutdown(cancel_futures=True)
    return looks


def _cache_of(paths: list[str]) -> Path:
    folder = os.path.commonpath([os.path.abspath(path) for path in paths])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(folder.encode()).hexdigest()[:16]
    return Path(base) / "focal_mm" / f"images_{name}.json"


def _read(cache: Path) -> dict[str, list]:
    try:
        return dict(json.loads(cache.read_text())["images"])
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _write(cache: Path, known: Mapping[str, object]) -> None:
    try:
        with replacing(cache) as path:
            path.write_text(json.dumps({"images": known}))
    except UserError as error:
        Console(stderr=True).print(f"all is read again next time: {error}")
