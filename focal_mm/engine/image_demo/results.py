"""The folder of results: which file is whose, what is done, and nothing half-written.

A line of ``image_demo.jsonl`` in the folder tells of each finished input where its
results are and what they were made with. By it, an interrupted run goes on where it
was, an input keeps its name, and nothing else in the folder is overwritten.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

from focal_mm.engine.errors import UserError
from focal_mm.engine.image_demo.inputs import Source

RECORD_FILE = "image_demo.jsonl"
_KEPT_SUFFIXES = frozenset((".jpg", ".jpeg", ".png"))


@dataclass(frozen=True)
class Entry:
    """A line of the record.

    Attributes:
        input: Absolute path.
        stamp: Size in bytes and time of change in ns of the input.
        settings: Digest of all else that decides the result.
        name: Of the results, without folder and suffix.
        files: Results, relative to the folder.
    """

    input: str
    stamp: tuple[int, int]
    settings: str
    name: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """An input and the files to be made of it.

    Attributes:
        source: The input.
        name: Of the results, without folder and suffix.
        vis: The drawn image or video, if wanted.
        json: The predictions, if wanted.
        label_map: Of an image a PNG of label indices, of a video a zip file of them,
            if wanted and the model predicts them.
    """

    source: Source
    name: str
    vis: Path | None
    json: Path | None
    label_map: Path | None

    @property
    def targets(self) -> list[Path]:
        """All files that are to be made."""
        return [path for path in (self.vis, self.json, self.label_map) if path]


class Results:
    """The results of all runs into one folder.

    Args:
        folder: It need not exist yet.
        settings: Digest of model, weights and options.
        vis: Whether to draw.
        pred: Whether to write predictions as JSON.
        label_maps: Whether predictions are label maps, which get a file of their own.

    Raises:
        UserError: If the record in the folder is none.
    """

    def __init__(
        self, folder: Path, settings: str, vis: bool, pred: bool, label_maps: bool
    ) -> None:
        self.folder = folder
        self._settings = settings
        self._vis, self._pred, self._label_maps = vis, pred, pred and label_maps
        self._entries = _read_record(folder / RECORD_FILE)

    def plan(self, sources: Sequence[Source], overwrite: bool) -> list[Job]:
        """What is to be made of the inputs that are not done yet.

        Args:
            sources: The inputs.
            overwrite: Make again what is done, and replace files that are in the way.

        Raises:
            UserError: If a file is in the way.
        """
        taken = {entry.name for entry in self._entries.values()}
        inputs = {source.real for source in sources}
        jobs = []
        for source in sources:
            entry = self._entries.get(str(source.real))
            name = entry.name if entry else _free_name(source.real, taken)
            taken.add(name)
            job = self._job(source, name)
            if overwrite or not self._is_done(job):
                self._check_targets(job, inputs, overwrite)
                jobs.append(job)
        return jobs

    def _job(self, source: Source, name: str) -> Job:
        suffix = source.path.suffix.lower()
        drawn = suffix if suffix in _KEPT_SUFFIXES else ".png"
        preds = self.folder / "preds"
        maps = preds / f"{name}{'.zip' if source.is_video else '.png'}"
        return Job(
            source,
            name,
            vis=self.folder / "vis" / f"{name}{'.mp4' if source.is_video else drawn}"
            if self._vis
            else None,
            json=preds / f"{name}.json" if self._pred else None,
            label_map=maps if self._label_maps else None,
        )

    def _is_done(self, job: Job) -> bool:
        entry = self._entries.get(str(job.source.real))
        return (
            entry is not None
            and entry.settings == self._settings
            and tuple(entry.stamp) == job.source.stamp
            and set(self._relative(job.targets)) <= set(entry.files)
            and all(path.is_file() for path in job.targets)
        )

    def _check_targets(self, job: Job, inputs: set[Path], overwrite: bool) -> None:
        entry = self._entries.get(str(job.source.real))
        for target in job.targets:
            if target.resolve() in inputs:
                raise UserError(
                    f"{target} is an input and would be overwritten: choose another "
                    "--out-dir"
                )
            if overwrite or not target.exists():
                continue
            (relative,) = self._relative([target])
            ours = entry is not None and relative in entry.files
            reason = (
                "was made with another model or other options, or the input has changed"
                if ours
                else f"is in the way of the result of {job.source.path}"
            )
            raise UserError(
                f"{target} {reason}: choose another --out-dir, or replace it by "
                "--overwrite"
            )

    @contextmanager
    def writing(self, job: Job) -> Iterator[Mapping[Path, Path]]:
        """Files to write a job's results to; they get their names all at the end.

        Yields:
            Per target of the job an unfinished file beside it, of the same suffix. If
            the block raises, all of them are removed.

        Raises:
            UserError: If a file cannot be written.
        """
        partial = {
            target: target.with_name(f".{target.stem}.partial{target.suffix}")
            for target in job.targets
        }
        try:
            for target in partial:
                target.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            for target, file in partial.items():
                os.replace(file, target)
            self._remember(job)
        except OSError as error:
            raise UserError(f"the results cannot be written: {error}") from None
        finally:
            for file in partial.values():
                file.unlink(missing_ok=True)

    def _remember(self, job: Job) -> None:
        entry = Entry(
            input=str(job.source.real),
            stamp=job.source.stamp,
            settings=self._settings,
            name=job.name,
            files=tuple(self._relative(job.targets)),
        )
        with (self.folder / RECORD_FILE).open("a+b") as record:
            # A line that was cut off by a crash is closed, and ignored from then on.
            size = record.seek(0, os.SEEK_END)
            record.seek(max(size - 1, 0))
            cut = record.read() not in (b"", b"\n")
            line = json.dumps(asdict(entry)) + "\n"
            record.write((b"\n" if cut else b"") + line.encode())
        self._entries[entry.input] = entry

    def _relative(self, paths: Iterable[Path]) -> list[str]:
        return [path.relative_to(self.folder).as_posix() for path in paths]


def _free_name(path: Path, taken: set[str]) -> str:
    """The stem, with as many folders before it as tell it from the names taken."""
    name = path.stem
    for parent in (path.parent, *path.parent.parents):
        if name not in taken:
            return name
        if parent.name:
            name = f"{parent.name}_{name}"
    numbered = (f"{path.stem}_{number}" for number in count(2))
    return next(name for name in numbered if name not in taken)


def _read_record(file: Path) -> dict[str, Entry]:
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read ({error}): choose another --out-dir"
        ) from None
    entries = {}
    for line in lines:
        try:
            fields = json.loads(line)
            entry = Entry(**fields)
        except (ValueError, TypeError):
            continue
        entries[entry.input] = entry
    return entries
