"""What is wrong in the data of a config, before anything is built from it."""

import inspect
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS, init_default_scope

from focal_mm.engine.checks import coco
from focal_mm.engine.checks.classes import class_numbers
from focal_mm.engine.checks.coco import Problem
from focal_mm.engine.checks.images import look_at_all
from focal_mm.engine.config import describe, type_name, walk
from focal_mm.engine.errors import UserError
from focal_mm.engine.files import replacing

_EXAMPLES = 3


@dataclass
class Checked:
    """A data set and what is wrong in it.

    Attributes:
        key: Its config key.
        ann_file: Of COCO's form; '' for other data sets.
        annotations: What that file holds; None if it cannot be read.
        problems: All that was found.
    """

    key: str
    ann_file: str = ""
    annotations: dict[str, list[dict]] | None = None
    problems: list[Problem] = field(default_factory=list)

    def rows(self) -> list[tuple[str, int, bool, str]]:
        """What is wrong, how often, whether it is an error, and which, errors first."""
        kinds: dict[tuple[str, bool], list[str]] = {}
        for problem in self.problems:
            kinds.setdefault((problem.what, problem.is_error), []).append(problem.where)
        rows = [
            (what, len(where), is_error, _some(where))
            for (what, is_error), where in kinds.items()
        ]
        return sorted(rows, key=lambda row: not row[2])

    def unfixed(self) -> "Checked":
        """The same with the problems alone that :func:`write_fixed` leaves."""
        return replace(self, problems=[p for p in self.problems if not p.part])


def _some(where: list[str]) -> str:
    more = ", …" if len(where) > _EXAMPLES else ""
    return ", ".join(where[:_EXAMPLES]) + more


def check_data(cfg: Config, datasets: Iterable[tuple[str, dict]]) -> list[Checked]:
    """Read the annotations of data sets, and headers and ends of all their images.

    Args:
        cfg: The config of a run.
        datasets: Config key and config of each data set; files on a local disk.
    """
    init_default_scope(cfg.get("default_scope", "mmengine"))
    with_masks = any(
        node.get("with_mask") for _, node in walk(cfg.get("train_dataloader"))
    )
    numbers = class_numbers(cfg.model.get("module", cfg.model)).values()
    done: dict[tuple, Checked] = {}
    for key, leaf in datasets:
        files = tuple(
            str(leaf.get(k)) for k in ("data_root", "data_prefix", "ann_file")
        )
        identity = (*files, str(leaf.get("metainfo")))
        if identity in done:
            # Validation and test are the same, as a rule.
            continue
        checked = done[identity] = Checked(key)
        dataset = _open(leaf)
        if dataset is None:
            kind = type_name(leaf["type"])
            checked.problems.append(Problem("data sets of this kind", kind, False))
            continue
        try:
            if _reads_coco(dataset):
                _check_coco(checked, dataset, with_masks)
            else:
                checked.problems += _check_samples(dataset, max(numbers, default=0))
        except UserError as error:
            checked.problems.append(Problem("files that cannot be read", str(error)))
    return list(done.values())


def raise_errors(checked: Iterable[Checked]) -> list[str]:
    """Raise a line for what is an error in data sets.

    Returns:
        A line for each data set of which the library leaves something out.

    Raises:
        UserError: If there are errors.
    """
    errors, notes = [], []
    for one in checked:
        rows = one.rows()
        wrong = [row for row in rows if row[2]]
        left_out = [row for row in rows if not row[2]]
        errors += [f"{one.key}: {n} {what} ({which})" for what, n, _, which in wrong]
        if left_out:
            texts = [f"{number} {what}" for what, number, _, _ in left_out]
            notes.append(f"{one.key}: left out or not looked at: {', '.join(texts)}")
    if errors:
        more = f"; {len(errors) - 1} more kinds of errors" if errors[1:] else ""
        raise UserError(f"{errors[0]}{more} (tools/check_data.py CONFIG shows all)")
    return notes


def write_fixed(checked: Iterable[Checked], folder: Path) -> dict[str, Path]:
    """Write copies of annotation files without what is wrong in them.

    Args:
        checked: The data sets.
        folder: Where to; nothing that is there is overwritten.

    Returns:
        The copies, by the config key of the data set.

    Raises:
        UserError: If a file of that name is there or cannot be written.
    """
    written: dict[str, Path] = {}
    for one in checked:
        if one.annotations is None or not any(p.part for p in one.problems):
            continue
        path = folder / Path(one.ann_file).name
        if path.exists():
            raise UserError(f"{path} is there already: choose another folder")
        with replacing(path) as partial:
            partial.write_text(json.dumps(coco.clean(one.annotations, one.problems)))
        written[one.key] = path
    return written


def _open(leaf: Mapping[str, Any]) -> BaseDataset | None:
    """A data set that has read nothing yet; None for those that cannot be opened so."""
    kind = leaf["type"]
    if isinstance(kind, str):
        with DATASETS.switch_scope_and_registry(None) as registry:
            kind = registry.get(kind)
    if kind is not None and not (
        inspect.isclass(kind) and issubclass(kind, BaseDataset)
    ):
        return None
    dataset = DATASETS.build({**leaf, "pipeline": [], "lazy_init": True})
    return None if dataset._fully_initialized else dataset


def _reads_coco(dataset: BaseDataset) -> bool:
    """Whether a data set reads its files as mmdet's CocoDataset does."""
    function = type(dataset).load_data_list
    return function.__qualname__ == "CocoDataset.load_data_list"


def _check_coco(checked: Checked, dataset: BaseDataset, with_masks: bool) -> None:
    checked.ann_file = dataset.ann_file
    data = checked.annotations = coco.read_coco(dataset.ann_file)
    folder = dataset.data_prefix.get("img") or ""
    names = [image["file_name"] for image in data["images"] if "file_name" in image]
    paths = {name: os.path.join(folder, str(name)) for name in names}
    looks = look_at_all(paths.values(), title=f"images of {checked.key}")
    classes = dataset.metainfo.get("classes") or [
        category.get("name") for category in data["categories"]
    ]
    found = {name: looks[path] for name, path in paths.items()}
    checked.problems += coco.check_categories(data, classes)
    checked.problems += coco.check_images(data, found)
    needs_masks = with_masks and not dataset.test_mode
    checked.problems += coco.check_annotations(data, classes, needs_masks)


def _check_samples(dataset: BaseDataset, heads: int) -> Iterator[Problem]:
    """Check what a data set lists by itself: image, label map, label.

    Args:
        dataset: Of pairs of images and label maps, or of folders of images.
        heads: The most classes that a head of the model knows; 0 if none says.
    """
    try:
        samples = dataset.load_data_list()
    except Exception as error:
        # Whatever it raises, it is its files that must be changed.
        raise UserError(describe(error)) from error
    if not samples:
        yield Problem("data sets without images", str(dataset.data_prefix))
    images = [s["img_path"] for s in samples if isinstance(s.get("img_path"), str)]
    maps = {s["seg_map_path"] for s in samples if s.get("seg_map_path")}
    looks = look_at_all([*images, *maps], maps, f"images of {type_name(type(dataset))}")
    for sample in samples:
        image, label_map = sample.get("img_path"), sample.get("seg_map_path")
        label = sample.get("gt_label")
        for path, name in ((image, "images"), (label_map, "label maps")):
            if path in looks and looks[path].problem:
                yield Problem(f"{name} that are {looks[path].problem}", path)
        if isinstance(label, int) and heads and not 0 <= label < heads:
            yield Problem(f"labels beyond the {heads} classes of the model", image)
        if label_map in looks and not looks[label_map].problem:
            if looks[image][:3] != looks[label_map][:3] and not looks[image].problem:
                yield Problem("label maps of another size than the image", label_map)
            strange = _strange_labels(dataset, looks[label_map].labels)
            if strange:
                where = f"{label_map}: {', '.join(map(str, strange))}"
                yield Problem("label maps with labels outside the palette", where)


def _strange_labels(dataset: BaseDataset, labels: Iterable[int]) -> list[int]:
    """Labels of a map that are neither a class nor ignored."""
    number = len(dataset.metainfo.get("classes") or ())
    if not number or dataset.label_map:
        return []
    first = 1 if dataset.reduce_zero_label else 0
    known = {0, *range(first, number + first), dataset.ignore_index}
    return sorted(set(labels) - known)
