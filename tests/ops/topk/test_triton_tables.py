"""Lists of keys for the Triton kernels of top-K attention."""

import itertools

import pytest
import torch

from focal_mm.ops.topk.geometry import Level, bias_table_size
from focal_mm.ops.topk.triton.tables import (
    displacement_visits,
    token_visits,
    window_keys,
)

CPU = torch.device("cpu")
LEVELS = [
    # Rows and columns of windows, tokens of a window's side, step, top-K.
    Level(1, 1, 7, 1, 128),
    Level(3, 5, 7, 1, 128),
    Level(2, 3, 4, 1, 1),
    Level(4, 2, 1, 7, 5),
    Level(9, 14, 1, 7, 128),
    Level(3, 3, 14, 1, 40),
]


def pairs(level, size):
    """(window, token, entry of the first query) of all keys, as a set."""
    tokens, places = window_keys(level, size, CPU).tolist()
    listed = [
        (window, *pair)
        for window, row in enumerate(zip(tokens, places, strict=True))
        for pair in zip(*row, strict=True)
    ]
    assert len(set(listed)) == len(listed)
    return set(listed)


def members_of(visits, size):
    """(tile, window, place in the tile, what is noted there) of all members."""
    starts = visits.starts.tolist()
    assert visits.members.shape == (len(visits.windows), size)
    assert starts[-1] == len(visits.windows)
    for tile, (first, last) in enumerate(itertools.pairwise(starts)):
        windows = visits.windows[first:last].tolist()
        assert windows == sorted(set(windows))
        for window, row in zip(windows, visits.members[first:last], strict=True):
            assert row.max() >= 0, "a window without keys in the tile"
            for place in (row >= 0).nonzero().flatten().tolist():
                yield tile, window, place, row[place].item()


@pytest.mark.parametrize("level", LEVELS)
def test_visits_of_tokens_are_all_keys_once(level):
    size, (rows, cols) = level.per_window * level.step, (4, 8)
    width = level.shape[1]
    per_row = -(-width // cols)
    visits = token_visits(level, size, (rows, cols), CPU)
    assert len(visits.starts) - 1 == per_row * -(-level.shape[0] // rows)
    found = []
    for tile, window, place, entry in members_of(visits, rows * cols):
        y = tile // per_row * rows + place // cols
        x = tile % per_row * cols + place % cols
        assert y < level.shape[0]
        assert x < width
        found.append((window, y * width + x, entry))
    assert len(found) == len(set(found))
    assert set(found) == pairs(level, size)


@pytest.mark.parametrize("level", LEVELS)
def test_visits_of_displacements_are_all_keys_once(level):
    size = level.per_window * level.step
    visits, order, places = displacement_visits(level, size, 16, CPU)
    assert len(order) == len(order.unique()) <= len(places)
    found = [
        (window, token, places[tile * 16 + place].item())
        for tile, window, place, token in members_of(visits, 16)
    ]
    assert len(found) == len(set(found))
    assert set(found) == pairs(level, size)
    assert places.max() + size <= torch.tensor(bias_table_size(level, size)).prod()


def test_lists_are_built_once_per_size(monkeypatch):
    level = Level(rows=2, cols=2, per_window=5, step=1, topk=9)
    first = [
        window_keys(level, 5, CPU),
        token_visits(level, 5, (4, 4), CPU),
        displacement_visits(level, 5, 16, CPU),
    ]
    monkeypatch.setattr(torch, "stack", None)
    monkeypatch.setattr(torch, "unique", None)
    assert window_keys(level, 5, CPU) is first[0]
    assert token_visits(level, 5, (4, 4), CPU) is first[1]
    assert displacement_visits(level, 5, 16, CPU) is first[2]
