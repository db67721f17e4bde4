"""Which key each window reads where, and the same lists seen from the other side.

The lists depend on sizes only. They are built once per size, put on the device, and
shared by all heads, images and layers: nobody may write to them.

Gradients of keys and of biases are gathered, not scattered: a kernel takes a tile of
tokens (or of displacements from key to window centre) and visits the windows that have
any of them among their keys. Which these are is a :class:`Visits`.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from focal_mm.ops.topk.geometry import Level, bias_table_size, closest_keys, reach

_CPU = torch.device("cpu")

_LISTS = 128
"""Lists kept of each kind: one for each level of a stage and size of the image."""


class Visits(NamedTuple):
    """The windows to visit for each tile.

    Attributes:
        starts: int32, (tiles + 1,): where the visits of each tile begin in the rest.
        windows: int32, (visits,): the window, ascending for each tile.
        members: int32, (visits, size of a tile): what the kernel has to know of that
            member of the tile as a key of the window, -1 where it is none.
    """

    starts: Tensor
    windows: Tensor
    members: Tensor

    def to(self, device: torch.device) -> Visits:
        """The visits on a device."""
        return Visits(*(tensor.to(device) for tensor in self))


class DisplacementVisits(NamedTuple):
    """The windows to visit for each tile of displacements.

    Attributes:
        visits: With the key's token as members.
        order: int64, (displacements that occur,): their numbers, those that most
            windows have first. The windows that are away from the map's border all
            have the same ones, and so fill the first tiles.
        places: int32, (tiles * size of a tile,): where in the bias table the window's
            first query finds each.
    """

    visits: Visits
    order: Tensor
    places: Tensor


def _keys(level: Level) -> tuple[Tensor, Tensor]:
    """int64, (windows, keys) each: tokens of the level and their displacements."""
    tokens, displacements = closest_keys((level,), _CPU).unbind()
    return tokens, displacements


def _places(level: Level, window_size: int, displacements: Tensor) -> Tensor:
    """Entries of the level's bias table for the first query of a window.

    The query at row i and column j of the window finds its bias i rows and j columns
    after that.
    """
    width = 2 * reach(level)[1] + 1
    row, col = displacements // width, displacements % width
    columns = bias_table_size(level, window_size)[1]
    return (row * columns + col) * level.step


@functools.lru_cache(maxsize=_LISTS)
def window_keys(level: Level, window_size: int, device: torch.device) -> Tensor:
    """int32, (2, windows, keys of the level).

    First: the token, row by row of the level's map. Second: where in the level's bias
    table the window's first query finds it.
    """
    tokens, displacements = _keys(level)
    places = _places(level, window_size, displacements)
    return torch.stack((tokens, places)).int().to(device)


def _visits(place: Tensor, member: Tensor, tiles: int, size: int) -> Visits:
    """Visits of tiles from each window's keys.

    Args:
        place: int64, (windows, keys): tile times ``size``, plus place in the tile.
        member: (windows, keys): what is written to ``members``.
        tiles: Number of tiles.
        size: Members of a tile.
    """
    windows = len(place)
    visit = place // size * windows + torch.arange(windows)[:, None]
    distinct, number = torch.unique(visit, return_inverse=True)
    members = torch.full((len(distinct), size), -1, dtype=torch.int32)
    members[number, place % size] = member.int()
    starts = torch.searchsorted(distinct, torch.arange(tiles + 1) * windows)
    return Visits(starts.int(), (distinct % windows).int(), members)


@functools.lru_cache(maxsize=_LISTS)
def token_visits(
    level: Level, window_size: int, tile: tuple[int, int], device: torch.device
) -> Visits:
    """For each rectangle of tokens, the windows that have any of them as keys.

    Args:
        level: The map.
        window_size: Side of a window of queries.
        tile: Rows and columns of a rectangle; rectangles are numbered row by row.
        device: Where the result is put.

    Returns:
        Visits whose members are the places of :func:`window_keys`.
    """
    tokens, displacements = _keys(level)
    tile_rows, tile_cols = tile
    map_rows, map_cols = level.shape
    tiles_per_row = -(-map_cols // tile_cols)
    row, col = tokens // map_cols, tokens % map_cols
    number = row // tile_rows * tiles_per_row + col // tile_cols
    place = (number * tile_rows + row % tile_rows) * tile_cols + col % tile_cols
    tiles = tiles_per_row * -(-map_rows // tile_rows)
    member = _places(level, window_size, displacements)
    return _visits(place, member, tiles, tile_rows * tile_cols).to(device)


@functools.lru_cache(maxsize=_LISTS)
def displacement_visits(
    level: Level, window_size: int, size: int, device: torch.device
) -> DisplacementVisits:
    """For each tile of displacements, the windows that have keys there.

    Args:
        level: The map.
        window_size: Side of a window of queries.
        size: Displacements of a tile.
        device: Where the result is put.
    """
    tokens, displacements = _keys(level)
    windows_with = torch.bincount(displacements.flatten())
    order = torch.argsort(windows_with, descending=True, stable=True)
    order = order[: int((windows_with > 0).sum())]
    rank = torch.empty_like(windows_with)
    rank[order] = torch.arange(len(order))
    tiles = -(-len(order) // size)
    visits = _visits(rank[displacements], tokens, tiles, size)
    places = torch.zeros(tiles * size, dtype=torch.int32)
    places[: len(order)] = _places(level, window_size, order).int()
    return DisplacementVisits(visits.to(device), order.to(device), places.to(device))
