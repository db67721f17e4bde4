"""The options of the backbone that decide which keys a window of queries sees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from focal_mm.layers import ATTENTIONS, POOLINGS
from focal_mm.ops.common.dispatch import check_choice, check_range
from focal_mm.ops.common.pyramid import WindowPyramid


def per_stage(name: str, value: Any | Sequence[Any], count: int) -> tuple[Any, ...]:
    """Spread a single value over ``count`` stages (or sides)."""
    values = (value,) * count if isinstance(value, int | str) else tuple(value)
    if len(values) != count:
        raise ValueError(f"{name} must be one value or {count} values, got {values}")
    return values


def _check_levels(key_selection: str, levels: Sequence[int], focal_pool: str) -> None:
    most = ATTENTIONS[key_selection].max_focal_levels
    for number in levels:
        check_range(f"focal_levels with {key_selection=}", number, 1, most)
    if focal_pool == "none" and max(levels) > 1:
        raise ValueError(
            f"focal_pool='none' leaves only the fine level: focal_levels must be 1, "
            f"got {levels}"
        )


def block_geometries(
    depths: Sequence[int],
    key_selection: str,
    *,
    window_size: int | Sequence[int],
    focal_levels: int | Sequence[int],
    focal_pool: str,
    options: Mapping[str, Any],
) -> list[list[WindowPyramid]]:
    """Sizes of the attention of each block of each stage.

    Args:
        depths: Blocks of each stage.
        key_selection: As for :class:`focal_mm.models.FocalTransformer`, like the
            following.
        window_size: Per stage.
        focal_levels: Per stage.
        focal_pool: Pooling of sub-windows.
        options: Options that only some key selections have, by name, per stage; None
            for the default of those that have it.

    Raises:
        ValueError: If an argument is out of range, does not fit the others, or has no
            effect with this key selection.
    """
    check_choice("key_selection", key_selection, tuple(ATTENTIONS))
    check_choice("focal_pool", focal_pool, POOLINGS)
    attention, count = ATTENTIONS[key_selection], len(depths)
    windows = per_stage("window_size", window_size, count)
    levels = per_stage("focal_levels", focal_levels, count)
    _check_levels(key_selection, levels, focal_pool)
    given = {name: value for name, value in options.items() if value is not None}
    unused = [name for name in given if name not in attention.options]
    if unused:
        raise ValueError(
            f"{', '.join(unused)}: no effect with key_selection={key_selection!r}, "
            "must be left out (or None)"
        )
    spread = {
        name: per_stage(name, value, count)
        for name, value in {**attention.options, **given}.items()
    }
    geometries = []
    for stage, depth in enumerate(depths):
        values = {name: values[stage] for name, values in spread.items()}
        sizes = windows[stage], levels[stage] - 1
        try:
            geometries.append(
                [attention.block_geometry(i, *sizes, **values) for i in range(depth)]
            )
        except ValueError as error:
            raise ValueError(f"stage {stage}: {error}") from None
    return geometries
