"""The options of the backbone that decide which keys a window of queries sees."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from focal_mm.layers import POOLINGS
from focal_mm.ops import FocalGeometry, TopKGeometry
from focal_mm.ops.common.pyramid import WindowPyramid

EXPAND_LAYERS = ("all", "even", "odd")
MOST_FOCAL_LEVELS = {"window": 3, "topk": 2}
"""Key selections, and the focal levels that each is defined for."""


def check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a ValueError unless the argument ``name`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {list(allowed)}, got {value!r}")


def per_stage(name: str, value: int | Sequence[int], count: int) -> tuple[int, ...]:
    """Spread a single value over ``count`` stages (or sides)."""
    values = (value,) * count if isinstance(value, int) else tuple(value)
    if len(values) != count:
        raise ValueError(f"{name} must be one value or {count} values, got {values}")
    return values


def _refuse_unused(key_selection: str, **options: object) -> None:
    """Raise a ValueError if an option is set that the key selection does not have."""
    unused = [name for name, value in options.items() if value is not None]
    if unused:
        raise ValueError(
            f"{', '.join(unused)}: no effect with key_selection={key_selection!r}, "
            "must be left out (or None)"
        )


def _check_levels(key_selection: str, levels: Sequence[int], focal_pool: str) -> None:
    most = MOST_FOCAL_LEVELS[key_selection]
    if min(levels) < 1 or max(levels) > most:
        raise ValueError(
            f"focal_levels must be between 1 and {most} with "
            f"key_selection={key_selection!r}, got {levels}"
        )
    if focal_pool == "none" and max(levels) > 1:
        raise ValueError(
            f"focal_pool='none' leaves only the fine level: focal_levels must be 1, "
            f"got {levels}"
        )


def _window_builder(
    windows: Sequence[int],
    levels: Sequence[int],
    expand_sizes: int | Sequence[int],
    expand_layer: str,
    focal_windows: int | Sequence[int],
    use_shift: bool,
) -> Callable[[int, int], FocalGeometry]:
    """A function of stage and 0-based index of the block in it."""
    check_choice("expand_layer", expand_layer, EXPAND_LAYERS)
    expands = per_stage("expand_sizes", expand_sizes, len(windows))
    regions = per_stage("focal_windows", focal_windows, len(windows))

    def build(stage: int, index: int) -> FocalGeometry:
        odd = index % 2 == 1
        geometry = FocalGeometry(
            windows[stage],
            expands[stage],
            regions[stage],
            coarse_levels=levels[stage] - 1,
            shift_size=windows[stage] // 2 if use_shift and odd else 0,
        )
        if expand_layer == "all" or odd == (expand_layer == "even"):
            return geometry
        return dataclasses.replace(geometry, expand_size=0)

    return build


def _topk_builder(
    windows: Sequence[int], levels: Sequence[int], topk: int | Sequence[int]
) -> Callable[[int, int], TopKGeometry]:
    """A function of stage and 0-based index of the block in it."""
    counts = per_stage("topk", topk, len(windows))
    return lambda stage, index: TopKGeometry(
        windows[stage], counts[stage], levels[stage] - 1
    )


def block_geometries(
    depths: Sequence[int],
    key_selection: str,
    *,
    window_size: int | Sequence[int],
    focal_levels: int | Sequence[int],
    focal_pool: str,
    expand_sizes: int | Sequence[int] | None,
    expand_layer: str | None,
    focal_windows: int | Sequence[int] | None,
    topk: int | Sequence[int] | None,
    use_shift: bool,
) -> list[list[WindowPyramid]]:
    """Sizes of the attention of each block of each stage.

    The arguments are those of :class:`focal_mm.models.FocalTransformer`; None is the
    default of the key selection that has the option.

    Raises:
        ValueError: If an argument is out of range, does not fit the others, or has no
            effect with this key selection.
    """
    check_choice("key_selection", key_selection, tuple(MOST_FOCAL_LEVELS))
    check_choice("focal_pool", focal_pool, POOLINGS)
    windows = per_stage("window_size", window_size, len(depths))
    levels = per_stage("focal_levels", focal_levels, len(depths))
    _check_levels(key_selection, levels, focal_pool)
    build: Callable[[int, int], WindowPyramid]
    if key_selection == "topk":
        _refuse_unused(
            key_selection,
            expand_sizes=expand_sizes,
            expand_layer=expand_layer,
            focal_windows=focal_windows,
            use_shift=use_shift or None,
        )
        build = _topk_builder(windows, levels, 128 if topk is None else topk)
    else:
        _refuse_unused(key_selection, topk=topk)
        build = _window_builder(
            windows,
            levels,
            (3, 3, 3, 0) if expand_sizes is None else expand_sizes,
            "all" if expand_layer is None else expand_layer,
            (7, 5, 3, 1) if focal_windows is None else focal_windows,
            use_shift,
        )
    geometries = []
    for stage, depth in enumerate(depths):
        try:
            geometries.append([build(stage, index) for index in range(depth)])
        except ValueError as error:
            raise ValueError(f"stage {stage}: {error}") from None
    return geometries
