"""What is drawn, and that its masks and labels say so."""

from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from demo.toy.formats import REGIONS, draw_regions
from demo.toy.shapes import (
    CLASSES,
    MIN_SIZE,
    MIN_VISIBLE,
    Scene,
    draw_scene,
    draw_shape,
)

SIZE = 224
ROUNDNESS = {"circle": 1.0, "square": 0.64, "triangle": 0.41}
"""Areas of shapes over those of the circles around them."""


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [draw_scene(np.random.default_rng(seed), SIZE) for seed in range(40)]


def saturation(image: np.ndarray) -> np.ndarray:
    """Shapes are of saturated colours, grounds are not."""
    return cv2.cvtColor(cv2.blur(image, (3, 3)), cv2.COLOR_RGB2HSV)[..., 1]


def roundness(mask: np.ndarray) -> float:
    contours, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    hull = cv2.convexHull(max(contours, key=cv2.contourArea))
    return cv2.contourArea(hull) / (np.pi * cv2.minEnclosingCircle(hull)[1] ** 2)


def test_a_seed_draws_what_it_always_drew() -> None:
    """Published figures of trainings rest on these scenes."""
    scene = draw_scene(np.random.default_rng(3), SIZE)
    assert scene.labels == [0, 1, 1, 2]
    areas = [mask.sum() for mask in scene.masks]
    assert areas == pytest.approx([8621, 2988, 661, 548], abs=3)
    assert scene.image.mean(axis=(0, 1)) == pytest.approx([85.1, 93.1, 76.4], abs=0.2)


@pytest.mark.parametrize("size", [MIN_SIZE, 301])
def test_sizes(size: int) -> None:
    scene = draw_scene(np.random.default_rng(0), size)
    assert scene.image.shape == (size, size, 3)
    assert scene.image.dtype == np.uint8
    assert all(mask.shape == (size, size) for mask in scene.masks)


def test_masks_are_disjoint_and_objects_mostly_visible(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert 1 <= len(scene.labels) <= 6
        stacked = np.stack(scene.masks)
        assert stacked.sum(axis=0).max() == 1
        # The smallest shape has an area of 400 pixels.
        assert stacked.sum(axis=(1, 2)).min() > 0.95 * MIN_VISIBLE * 400


def test_masks_lie_where_the_shapes_are_painted(scenes: list[Scene]) -> None:
    for scene in scenes:
        shapes = np.any(scene.masks, axis=0).astype(np.uint8)
        kernel = np.ones((7, 7), np.uint8)
        inside = cv2.erode(shapes, kernel).astype(bool)
        outside = ~cv2.dilate(shapes, kernel).astype(bool)
        found = saturation(scene.image)
        assert np.percentile(found[inside], 5) > np.percentile(found[outside], 95)


def test_labels_are_those_of_the_outlines(scenes: list[Scene]) -> None:
    # Only the foremost object is whole for certain.
    front = [(CLASSES[s.labels[-1]], roundness(s.masks[-1])) for s in scenes]
    assert all(abs(found - ROUNDNESS[name]) < 0.1 for name, found in front)
    assert {name for name, _ in front} == set(CLASSES)
    for label, name in enumerate(CLASSES):
        for seed in range(5):
            alone = draw_shape(np.random.default_rng(seed), 120, label)
            found = roundness(saturation(alone) > 90)
            assert abs(found - ROUNDNESS[name]) < 0.12, (name, seed)


def test_classes_sizes_and_hidden_parts_are_there(scenes: list[Scene]) -> None:
    labels = Counter(label for scene in scenes for label in scene.labels)
    assert min(labels[i] for i in range(len(CLASSES))) > labels.total() / 8
    masks = [mask for scene in scenes for mask in scene.masks]
    buckets = [0, 32**2, 96**2, SIZE**2]
    sizes = np.histogram([mask.sum() for mask in masks], buckets)[0]
    assert min(sizes) >= 5, sizes
    # All outlines are convex: only a hidden part leaves a mask that is not.
    points = [np.argwhere(mask)[:, ::-1].astype(np.int32) for mask in masks]
    hulls = [cv2.contourArea(cv2.convexHull(p)) for p in points]
    hidden = [m.sum() < 0.9 * h for m, h in zip(masks, hulls, strict=True)]
    assert sum(hidden) >= 5


def test_hues_tell_classes_apart_on_request() -> None:
    def hue(label: int, seed: int, class_hues: bool) -> float:
        """In thirds of the circle of hues."""
        image = draw_shape(np.random.default_rng(seed), 64, label, class_hues)
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        angles = hsv[..., 0][hsv[..., 1] > 150] * np.pi / 90
        return np.angle(np.exp(1j * angles).mean()) * 3 / (2 * np.pi) % 3

    for label in range(len(CLASSES)):
        own = [hue(label, seed, True) for seed in range(8)]
        assert all(min(abs(h - label), 3 - abs(h - label)) < 0.5 for h in own)
    free = np.array([hue(0, seed, False) for seed in range(8)])
    assert ((free > 0.5) & (free < 2.5)).any()


@pytest.mark.parametrize("size", [48, 200])
def test_regions(size: int) -> None:
    found = np.zeros(1 + len(REGIONS), int)
    for seed in range(12):
        image, labels = draw_regions(np.random.default_rng(seed), size)
        assert image.shape == (*labels.shape, 3) == (size, size, 3)
        assert image.dtype == labels.dtype == np.uint8
        # Lines between regions are unlabelled: no two labels touch.
        for one, other in ((labels[1:], labels[:-1]), (labels.T[1:], labels.T[:-1])):
            assert not ((one != other) & (one != 0) & (other != 0)).any()
        found[np.unique(labels)] += 1
        # The sky is bluer than the ground, and above it.
        sky, ground = labels == 1, labels == 2
        if sky.any() and ground.any():
            blueness = image[..., 2].astype(float) - image[..., 0]
            assert blueness[sky].mean() > blueness[ground].mean() + 10
            assert np.nonzero(sky)[0].mean() < np.nonzero(ground)[0].mean()
        # Each class has its hue, a third of the circle (180 in OpenCV) apart.
        hues = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 0].astype(float)
        for index, name in enumerate(CLASSES):
            inside = (labels == 1 + REGIONS.index(name)).astype(np.uint8)
            inside = cv2.erode(inside, np.ones((5, 5), np.uint8)).astype(bool)
            if inside.sum() > 50:
                off = (hues[inside] - 60 * index + 90) % 180 - 90
                assert np.median(np.abs(off)) < 35, (seed, name)
    assert found.min() >= 3
