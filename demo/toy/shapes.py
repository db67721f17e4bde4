"""Seeded scenes of textured shapes on a textured ground, with exact masks.

Shapes are scaled by the square root of their area in pixels, because that is how
COCO tells small, medium and large objects apart. Colour and texture are drawn
independently of the class: only the outline decides it. Where a model shall learn in
minutes what else takes an hour, ``class_hues`` gives each class hues of its own.
"""

import colorsys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import cv2
import numpy as np

CLASSES = ("circle", "square", "triangle")

MIN_SIZE = 192
"""Smallest scene side in pixels into which a large shape of every class fits."""

MIN_VISIBLE = 0.7
"""Share of an object's pixels that the objects in front of it leave visible."""

# Square roots of areas in pixels, well within COCO's buckets (32 and 96).
_SMALL = (20.0, 30.0)
_MEDIUM = (40.0, 76.0)
_LARGE_FROM = 104.0
# Radians. Upright shapes are learnt in fewer steps than shapes of any direction.
_MOST_TURN = np.pi / 16
# Diameter of the circle around a triangle of area one.
_WIDEST = 1.76
_PLACING_TRIES = 20
_SUPERSAMPLING = 4
_FIXED_POINT_BITS = 4
# Square roots of a single shape's area, as shares of the image's side.
_ALONE = (0.35, 0.5)
# Of the hues between two classes' own, the share that is used.
_HUE_SHARE = 0.5


@dataclass(frozen=True)
class SceneObject:
    """One visible object of a scene.

    Attributes:
        label: Index into :data:`CLASSES`.
        mask: Its visible pixels, bool array of shape (size, size).
    """

    label: int
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        image: RGB image, uint8 array of shape (size, size, 3).
        objects: The objects in it, from the rearmost to the foremost.
    """

    image: np.ndarray
    objects: tuple[SceneObject, ...]


def draw_scene(rng: np.random.Generator, size: int, class_hues: bool = False) -> Scene:
    """Draw one scene.

    Args:
        rng: Source of all randomness: the same state gives the same scene.
        size: Side of the square image in pixels, at least :data:`MIN_SIZE`.
        class_hues: Whether a shape's hue tells its class.

    Returns:
        The scene, with one to six objects of which none is hidden by more than
        ``1 - MIN_VISIBLE``.

    Raises:
        ValueError: If ``size`` is below :data:`MIN_SIZE`.
    """
    if size < MIN_SIZE:
        raise ValueError(f"size must be at least {MIN_SIZE} pixels, got {size}")
    placed = _place_shapes(rng, size)
    visible = _visible_masks([coverage >= 0.5 for _, coverage in placed])
    return Scene(
        image=_paint(rng, size, placed, class_hues),
        objects=tuple(
            SceneObject(label, mask)
            for (label, _), mask in zip(placed, visible, strict=True)
        ),
    )


def draw_shape(
    rng: np.random.Generator, size: int, label: int, class_hues: bool = False
) -> np.ndarray:
    """Draw one shape somewhere on a ground.

    Args:
        rng: Source of all randomness: the same state gives the same image.
        size: Side of the square image in pixels.
        label: The shape's index into :data:`CLASSES`.
        class_hues: Whether the shape's hue tells its class.

    Returns:
        RGB image, uint8 of shape (size, size, 3).
    """
    low, high = (share * size for share in _ALONE)
    vertices = next(_placings(rng, size, label, low, high))
    return _paint(rng, size, [(label, _rasterise(vertices, size))], class_hues)


def _paint(
    rng: np.random.Generator,
    size: int,
    placed: list[tuple[int, np.ndarray]],
    class_hues: bool,
) -> np.ndarray:
    """Ground and shapes, from the rearmost to the foremost, as a uint8 RGB image."""
    image = _paint_ground(rng, size)
    for label, coverage in placed:
        hue = rng.uniform()
        if class_hues:
            hue = (label + _HUE_SHARE * (hue - 0.5)) / len(CLASSES)
        paint, edge = _paint_shape(rng, coverage, hue)
        image += coverage[..., None] * (paint - image)
        image += edge[..., None] * (0.35 * paint - image)
    image += rng.normal(0, 0.02, image.shape)
    return (image.clip(0, 1) * 255).round().astype(np.uint8)


def _outline(label: int) -> np.ndarray:
    """Vertices (n, 2) of a class's outline around the origin, with area one."""
    corners = {"circle": 64, "square": 4, "triangle": 3}[CLASSES[label]]
    # The first corner is on top, but a square stands on a side.
    first = np.pi / 4 if corners == 4 else 0.0
    angles = first + 2 * np.pi * np.arange(corners) / corners
    x, y = np.sin(angles), -np.cos(angles)
    area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
    return np.stack([x, y], axis=1) / np.sqrt(area)


def _place_shapes(rng: np.random.Generator, size: int) -> list[tuple[int, np.ndarray]]:
    """Place shapes, the larger behind the smaller.

    Returns:
        Per shape its label and its coverage of each pixel, float32 in [0, 1] of
        shape (size, size), whatever stands in front of it.
    """
    large = (_LARGE_FROM, (size - 4) / _WIDEST)
    placed: list[tuple[int, np.ndarray]] = []
    for (low, high), most in ((large, 1), (_MEDIUM, 2), (_SMALL, 3)):
        fewest = 0 if most == 1 else 1
        for _ in range(rng.integers(fewest, most, endpoint=True)):
            label = int(rng.integers(len(CLASSES)))
            for vertices in _placings(rng, size, label, low, high):
                coverage = _rasterise(vertices, size)
                if _leaves_all_visible([c for _, c in placed], coverage):
                    placed.append((label, coverage))
                    break
    return placed


def _placings(
    rng: np.random.Generator, size: int, label: int, low: float, high: float
) -> Iterator[np.ndarray]:
    """Vertices of one shape at several places, all of them wholly inside the scene."""
    scale, angle = rng.uniform(low, high), rng.uniform(-_MOST_TURN, _MOST_TURN)
    cos, sin = np.cos(angle), np.sin(angle)
    vertices = scale * _outline(label) @ np.array([[cos, sin], [-sin, cos]])
    room_from, room_to = 1 - vertices.min(axis=0), size - 1 - vertices.max(axis=0)
    for _ in range(_PLACING_TRIES):
        yield vertices + rng.uniform(room_from, room_to)


def _rasterise(vertices: np.ndarray, size: int) -> np.ndarray:
    """Share of each pixel (size, size) inside the polygon, float32 in [0, 1]."""
    fine = _SUPERSAMPLING
    canvas = np.zeros((size * fine, size * fine), np.uint8)
    # A pixel's centre, not its corner, has whole coordinates in OpenCV.
    corners = np.round((vertices * fine - 0.5) * 2**_FIXED_POINT_BITS)
    cv2.fillPoly(canvas, [corners.astype(np.int32)], 1, shift=_FIXED_POINT_BITS)
    return canvas.reshape(size, fine, size, fine).mean(axis=(1, 3), dtype=np.float32)


def _visible_masks(masks: list[np.ndarray]) -> list[np.ndarray]:
    """What remains of each mask behind the masks that follow it in the list."""
    visible = []
    hidden = np.zeros_like(masks[0])
    for mask in reversed(masks):
        visible.append(mask & ~hidden)
        hidden |= mask
    return visible[::-1]


def _leaves_all_visible(behind: list[np.ndarray], front: np.ndarray) -> bool:
    masks = [coverage >= 0.5 for coverage in (*behind, front)]
    return all(
        seen.sum() >= MIN_VISIBLE * whole.sum()
        for seen, whole in zip(_visible_masks(masks), masks, strict=True)
    )


def _paint_ground(rng: np.random.Generator, size: int) -> np.ndarray:
    """A muted cloudy ground, float64 RGB in [0, 1] of shape (size, size, 3)."""
    clouds = sum(_clouds(rng, size, cells) / cells for cells in (3, 8, 24))
    clouds = (clouds - clouds.min()) / np.ptp(clouds)
    hue, value = rng.uniform(), rng.uniform(0.35, 0.6)
    dark = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0, 0.25), value - 0.12))
    light = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0, 0.25), value + 0.12))
    return dark + clouds[..., None] * (light - dark)


def _paint_shape(
    rng: np.random.Generator, coverage: np.ndarray, hue: float
) -> tuple[np.ndarray, np.ndarray]:
    """A two-colour texture and a dark edge for one shape.

    Returns:
        The texture, RGB in [0, 1] of shape (size, size, 3), and how much of each
        pixel (size, size) the edge covers.
    """
    colours = [
        np.array(colorsys.hsv_to_rgb((hue + shift) % 1, saturation, value))
        for shift, saturation, value in (
            (0.0, rng.uniform(0.75, 1.0), rng.uniform(0.75, 1.0)),
            (rng.uniform(-0.12, 0.12), rng.uniform(0.5, 1.0), rng.uniform(0.4, 0.7)),
        )
    ]
    texture = _TEXTURES[int(rng.integers(len(_TEXTURES)))]
    period = max(4.0, rng.uniform(0.15, 0.3) * np.sqrt(coverage.sum()))
    mix = texture(rng, len(coverage), period)[..., None]
    inside = cv2.erode(coverage, np.ones((3, 3), np.uint8))
    return colours[0] + mix * (colours[1] - colours[0]), coverage - inside


def _turned_axes(
    rng: np.random.Generator, size: int, period: float
) -> tuple[np.ndarray, np.ndarray]:
    """Two axes at right angles, turned and shifted at random, in periods."""
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size] / period
    u = x * np.cos(angle) + y * np.sin(angle) + rng.uniform()
    v = y * np.cos(angle) - x * np.sin(angle) + rng.uniform()
    return u, v


def _clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise with about ``cells`` blotches to a side, (size, size)."""
    grid = rng.normal(size=(cells + 1, cells + 1))
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def _stripes(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    u, _ = _turned_axes(rng, size, period)
    return (u % 1 < 0.5).astype(float)


def _checks(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    u, v = _turned_axes(rng, size, period)
    return ((u % 1 < 0.5) ^ (v % 1 < 0.5)).astype(float)


def _dots(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    u, v = _turned_axes(rng, size, period)
    return (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.3).astype(float)


def _blotches(rng: np.random.Generator, size: int, period: float) -> np.ndarray:
    noise = _clouds(rng, size, max(2, round(2 * size / period)))
    return (noise / 2 + 0.5).clip(0, 1)


_TEXTURES: tuple[Callable[[np.random.Generator, int, float], np.ndarray], ...] = (
    _stripes,
    _checks,
    _dots,
    _blotches,
)
