"""Images and videos that a command line names."""

import glob
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from focal_mm.engine.errors import UserError

IMAGE_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
)
VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".avi", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv")
)


@dataclass(frozen=True)
class Source:
    """An image or a video.

    Attributes:
        path: As the user wrote it or it was found.
        real: Absolute, symbolic links resolved: what makes two sources the same.
        stamp: Size in bytes and time of change in ns, when it was found.
    """

    path: Path
    real: Path
    stamp: tuple[int, int]

    @classmethod
    def of(cls, path: Path) -> "Source":
        """The source at a path where there is a file."""
        status = path.stat()
        return cls(path, path.resolve(), (status.st_size, status.st_mtime_ns))

    @property
    def is_video(self) -> bool:
        """Whether the suffix is a video's; a file of any other is taken as an image."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


def find_sources(inputs: Iterable[str], out_dir: Path) -> list[Source]:
    """Find the images and videos that the inputs mean.

    Args:
        inputs: Files (of any suffix), folders (images and videos directly in them) and
            globs (``**`` crosses folders; images and videos only).
        out_dir: Folder of results; what a folder or glob finds in its ``vis`` and
            ``preds`` is left out.

    Returns:
        Each file once, in the order of the inputs, a folder's and a glob's by name.

    Raises:
        UserError: If an input matches nothing.
    """
    sources: dict[Path, Source] = {}
    results = [(out_dir / name).resolve() for name in ("vis", "preds")]
    for text in inputs:
        named = Path(text).is_file()
        found = [Path(text)] if named else _matches(text)
        for path in found:
            source = Source.of(path)
            if named or not any(source.real.is_relative_to(r) for r in results):
                sources.setdefault(source.real, source)
        if not found:
            raise UserError(
                f"{text} matches no image or video: name files, folders with "
                f"{' '.join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))}, or globs of them"
            )
    if not sources:
        raise UserError(
            f"nothing to do: all that matches are results in {out_dir}, "
            "choose another --out-dir to draw on them"
        )
    return list(sources.values())


def _matches(text: str) -> list[Path]:
    """Images and videos in a folder or of a glob."""
    folder = Path(text)
    paths = folder.iterdir() if folder.is_dir() else glob.iglob(text, recursive=True)
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    # Hidden files are nobody's pictures, and unfinished results among them.
    return sorted(
        path
        for path in map(Path, paths)
        if path.suffix.lower() in known
        and not path.name.startswith(".")
        and path.is_file()
    )
