"""Seeded scenes of textured shapes on a textured ground, with exact masks.

Shapes are scaled by the square root of their area in pixels, because that is how
COCO tells small, medium and large objects apart. Colour and texture are drawn
independently of the class: only the outline decides it. Where a model shall learn in
minutes what else takes an hour, ``class_hues`` gives each class hues of its own.
"""

import colorsys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

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
_TEXTURES = ("stripes", "checks", "dots", "blotches")


class Scene(NamedTuple):
    """A drawn scene.

    Attributes:
        image: RGB image, uint8 array of shape (size, size, 3).
        labels: Indices into :data:`CLASSES`, from the rearmost to the foremost.
        masks: The visible pixels of each, bool arrays of shape (size, size).
    """

    image: np.ndarray
    labels: list[int]
    masks: list[np.ndarray]


def draw_scene(rng: np.random.Generator, size: int, class_hues: bool = False) -> Scene:
    """Draw one scene.

    Args:
        rng: Source of all randomness: the same state gives the same scene.
        size: Side of the square image in pixels, at least :data:`MIN_SIZE`.
        class_hues: Whether a shape's hue tells its class.

    Returns:
        The scene, with one to six shapes of which none is hidden by more than
        ``1 - MIN_VISIBLE``.
    """
    # The larger stand behind the smaller.
    large = (_LARGE_FROM, (size - 4) / _WIDEST)
    labels: list[int] = []
    coverages: list[np.ndarray] = []
    for (low, high), most in ((large, 1), (_MEDIUM, 2), (_SMALL, 3)):
        fewest = 0 if most == 1 else 1
        for _ in range(rng.integers(fewest, most, endpoint=True)):
            label = int(rng.integers(len(CLASSES)))
            for vertices in _placings(rng, size, label, low, high):
                together = [*coverages, _rasterise(vertices, size)]
                if all(
                    seen.sum() >= MIN_VISIBLE * (whole >= 0.5).sum()
                    for seen, whole in zip(
                        _visible_masks(together), together, strict=True
                    )
                ):
                    labels, coverages = [*labels, label], together
                    break
    image = _paint(rng, labels, coverages, class_hues)
    return Scene(image, labels, _visible_masks(coverages))


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
    return _paint(rng, [label], [_rasterise(vertices, size)], class_hues)


def _paint(
    rng: np.random.Generator,
    labels: Sequence[int],
    coverages: Sequence[np.ndarray],
    class_hues: bool,
) -> np.ndarray:
    """Ground and shapes, from the rearmost to the foremost, as a uint8 RGB image."""
    image = _paint_ground(rng, len(coverages[0]))
    for label, coverage in zip(labels, coverages, strict=True):
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


def _visible_masks(coverages: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of each shape what the shapes that follow it leave visible, bool (size, size)."""
    visible = []
    hidden = np.zeros(coverages[0].shape, bool)
    for coverage in reversed(coverages):
        visible.append((coverage >= 0.5) & ~hidden)
        hidden |= coverage >= 0.5
    return visible[::-1]


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
    kind = _TEXTURES[rng.integers(len(_TEXTURES))]
    period = max(4.0, rng.uniform(0.15, 0.3) * np.sqrt(coverage.sum()))
    mix = _texture(rng, kind, len(coverage), period)[..., None]
    inside = cv2.erode(coverage, np.ones((3, 3), np.uint8))
    return colours[0] + mix * (colours[1] - colours[0]), coverage - inside


def _clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Smooth noise with about ``cells`` blotches to a side, (size, size)."""
    grid = rng.normal(size=(cells + 1, cells + 1))
    return cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)


def _texture(
    rng: np.random.Generator, kind: str, size: int, period: float
) -> np.ndarray:
    """How much of a second colour each pixel (size, size) has, in [0, 1].

    Args:
        rng: Source of direction and place.
        kind: One of :data:`_TEXTURES`.
        size: Side of the image in pixels.
        period: Pixels after which the texture repeats itself.
    """
    if kind == "blotches":
        noise = _clouds(rng, size, max(2, round(2 * size / period)))
        return (noise / 2 + 0.5).clip(0, 1)
    # Axes at right angles, turned and shifted at random, in periods.
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:size, :size] / period
    u = (x * np.cos(angle) + y * np.sin(angle) + rng.uniform()) % 1
    v = (y * np.cos(angle) - x * np.sin(angle) + rng.uniform()) % 1
    if kind == "dots":
        return (np.hypot(u - 0.5, v - 0.5) < 0.3).astype(float)
    across = v < 0.5 if kind == "checks" else False
    return ((u < 0.5) ^ across).astype(float)
