"""Annotation files of COCO's format: what is wrong in them, and a copy without it."""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from focal_mm.engine.checks.images import Look
from focal_mm.engine.config import describe
from focal_mm.engine.errors import UserError


class Problem(NamedTuple):
    """Something that is wrong in a data set.

    Attributes:
        what: In words that are the same for all of its kind.
        where: Which file, image or annotation.
        is_error: Whether it must not be trained with; else the library leaves it out.
        part: 'images' or 'annotations', if that entry is the problem.
        index: The entry's place there.
        remedy: New values for the entry; None if only leaving it out helps.
    """

    what: str
    where: str
    is_error: bool = True
    part: str = ""
    index: int = -1
    remedy: Mapping[str, Any] | None = None


def read_coco(path: str) -> dict[str, list[dict]]:
    """Read an annotation file.

    Raises:
        UserError: If it is no JSON or not of COCO's form.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is no readable JSON: {describe(error)}") from None
    parts = ("images", "annotations", "categories")
    if not isinstance(data, dict) or not all(
        isinstance(data.get(part), list)
        and all(isinstance(e, dict) for e in data[part])
        for part in parts
    ):
        raise UserError(f"{path} is not of COCO's form: lists {', '.join(parts)}")
    return data


def clean(data: dict[str, list[dict]], problems: Sequence[Problem]) -> dict:
    """A copy of what a file holds, without what is wrong or with its remedy."""
    data = dict(data)
    for part in ("images", "annotations"):
        entries = dict(enumerate(data[part]))
        for problem in (p for p in problems if p.part == part):
            entry = entries.pop(problem.index, None)
            if entry is not None and problem.remedy is not None:
                entries[problem.index] = {**entry, **problem.remedy}
        data[part] = [entries[index] for index in sorted(entries)]
    kept = {image["id"] for image in data["images"]}
    data["annotations"] = [a for a in data["annotations"] if a["image_id"] in kept]
    return data


def check_categories(
    data: dict[str, list[dict]], classes: Sequence[str]
) -> Iterator[Problem]:
    """Hold a file's categories against the classes of the config.

    mmdet numbers the file's categories in the file's order and leaves out names that
    it does not know: a renamed one shifts all that follow.
    """
    names = [category.get("name") for category in data["categories"]]
    ids = Counter(category.get("id") for category in data["categories"])
    for number, count in ids.items():
        if count > 1:
            yield Problem("categories with one id", f"id {number}, {count} times")
    found = [name for name in names if name in set(classes)]
    for name in classes:
        if name not in found:
            others = [str(other) for other in names if other not in classes]
            yield Problem(
                "classes that no category is called",
                f"{name} (the file also has {', '.join(others[:5]) or 'no other'})",
            )
    if sorted(found) == sorted(classes) and found != list(classes):
        yield Problem(
            "categories in another order than metainfo.classes",
            f"the file has {', '.join(found[:8])}",
        )
    elif len(found) > len(set(found)):
        yield Problem("categories with one name", ", ".join(found[:8]))


def check_images(
    data: dict[str, list[dict]], looks: Mapping[str, Look]
) -> Iterator[Problem]:
    """Hold a file's images against the files on the disk.

    Args:
        data: What the annotation file holds.
        looks: By ``file_name``; what is not there is not checked.
    """
    names: dict[Any, set] = {}
    for image in data["images"]:
        names.setdefault(image.get("id"), set()).add(image.get("file_name"))
    seen: set = set()
    for index, image in enumerate(data["images"]):
        number, name = image.get("id"), image.get("file_name")
        at = dict(part="images", index=index)
        where = f"{name} (id {number})"
        if number is None or name is None:
            yield Problem("images without id or file_name", f"number {index}", **at)
            continue
        if number in seen or len(names[number]) > 1:
            yield Problem("images with one id", where, **at)
        seen.add(number)
        found = looks.get(name)
        size = dict(width=image.get("width"), height=image.get("height"))
        if found is None or found.problem:
            if found:
                yield Problem(f"images that are {found.problem}", name, **at)
        elif size != dict(width=found.width, height=found.height):
            real = dict(width=found.width, height=found.height)
            where = f"{name}: {size['width']}×{size['height']} in the file, but "
            where += f"{found.width}×{found.height}"
            yield Problem("images of another size", where, **at, remedy=real)


def check_annotations(
    data: dict[str, list[dict]], classes: Sequence[str], needs_masks: bool
) -> Iterator[Problem]:
    """Find annotations that mmdet leaves out, and those at which it fails.

    Args:
        data: What the annotation file holds.
        classes: Of the config.
        needs_masks: Whether the pipeline loads masks.
    """
    images = {image.get("id"): image for image in data["images"]}
    categories = {c.get("id"): c.get("name") in classes for c in data["categories"]}
    ids = Counter(annotation.get("id") for annotation in data["annotations"])
    unused = max((i for i in ids if isinstance(i, int)), default=0) + 1
    seen = set()
    usable = 0
    for index, annotation in enumerate(data["annotations"]):
        number, image_id = annotation.get("id"), annotation.get("image_id")
        where = f"annotation {number} of image {image_id}"
        at = dict(part="annotations", index=index)
        if number is None or number in seen:
            remedy = dict(id=unused)
            unused += 1
            yield Problem("annotations with one id", where, **at, remedy=remedy)
        seen.add(number)
        if annotation.get("ignore") or annotation.get("iscrowd"):
            continue
        category = annotation.get("category_id")
        why = None
        if image_id not in images:
            why = "boxes of an image that is not listed"
        elif category not in categories:
            why = "boxes of a category that is not listed"
        elif categories[category]:
            why = _wrong_box(annotation, images[image_id])
        else:
            # As the config wants it: nothing to mend.
            yield Problem("boxes of other categories", where, is_error=False)
            continue
        if why is not None:
            yield Problem(why, where, is_error="without" in why, **at)
            continue
        usable += 1
        why = _wrong_mask(annotation.get("segmentation"), images[image_id])
        if why is not None and needs_masks:
            yield Problem(why, where, is_error="without" in why, **at)
    if not usable:
        yield Problem("files without a box that can be used", "all of them")


def _wrong_box(annotation: dict, image: dict) -> str | None:
    """Why mmdet's CocoDataset leaves a box out, or fails at it."""
    box, area = annotation.get("bbox"), annotation.get("area")
    numbers = [*box, area] if isinstance(box, list) and len(box) == 4 else [None]
    if not all(isinstance(number, int | float) for number in numbers):
        return "annotations without bbox of four numbers or area"
    if not all(map(math.isfinite, numbers)):
        return "boxes that are NaN or infinite"
    x, y, width, height = box
    if width < 0 or height < 0:
        return "boxes of negative size"
    if width < 1 or height < 1 or area <= 0:
        return "boxes of no area or sides below a pixel"
    sides = image.get("width"), image.get("height")
    if all(isinstance(side, int) for side in sides):
        inner_width = min(x + width, sides[0]) - max(x, 0)
        inner_height = min(y + height, sides[1]) - max(y, 0)
        if inner_width <= 0 or inner_height <= 0:
            return "boxes outside the image"
    return None


def _wrong_mask(mask: Any, image: dict) -> str | None:
    """Why mmdet's LoadAnnotations ignores an instance for its mask, or fails at it."""
    if not mask:
        return "instances without segmentation"
    if isinstance(mask, dict):
        if not isinstance(mask.get("counts"), list | str):
            return "broken segmentations"
        if mask.get("size") != [image.get("height"), image.get("width")]:
            return "segmentations without the size of their image"
        return None
    polygons = (
        [p for p in mask if isinstance(p, list)] if isinstance(mask, list) else []
    )
    if any(len(p) % 2 or len(p) < 6 for p in polygons) or len(polygons) != len(mask):
        return "broken segmentations"
    numbers = (number for polygon in mask for number in polygon)
    finite = all(isinstance(n, int | float) and math.isfinite(n) for n in numbers)
    return None if finite else "broken segmentations"
