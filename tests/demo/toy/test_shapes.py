from __future__ import annotations

from collections import Counter

import cv2
import numpy as np
import pytest

from demo.toy.shapes import CLASSES, MIN_SIZE, MIN_VISIBLE, Scene, draw_scene

SIZE = 224


def scene(seed: int, size: int = SIZE) -> Scene:
    return draw_scene(np.random.default_rng(seed), size)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [scene(seed) for seed in range(40)]


def test_same_seed_same_scene_other_seed_other_scene() -> None:
    first, again, other = scene(3), scene(3), scene(4)
    assert np.array_equal(first.image, again.image)
    assert [o.label for o in first.objects] == [o.label for o in again.objects]
    for one, two in zip(first.objects, again.objects, strict=True):
        assert np.array_equal(one.mask, two.mask)
    assert not np.array_equal(first.image, other.image)


@pytest.mark.parametrize("size", [MIN_SIZE, 301])
def test_sizes(size: int) -> None:
    drawn = [scene(seed, size) for seed in range(5)]
    for one in drawn:
        assert one.image.shape == (size, size, 3)
        assert one.image.dtype == np.uint8
        assert all(o.mask.shape == (size, size) for o in one.objects)


def test_too_small_a_scene_is_an_error() -> None:
    with pytest.raises(ValueError, match=f"at least {MIN_SIZE} pixels, got 191"):
        scene(0, MIN_SIZE - 1)


def test_masks_are_disjoint_and_objects_mostly_visible(scenes: list[Scene]) -> None:
    for one in scenes:
        assert 1 <= len(one.objects) <= 6
        stacked = np.stack([o.mask for o in one.objects])
        assert stacked.sum(axis=0).max() == 1
        # The smallest shape has an area of 400 pixels.
        assert stacked.sum(axis=(1, 2)).min() > 0.95 * MIN_VISIBLE * 400


def test_masks_lie_where_the_shapes_are_painted(scenes: list[Scene]) -> None:
    # Shapes are of saturated colours, grounds are not.
    for one in scenes:
        smooth = cv2.blur(one.image, (3, 3))
        saturation = cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)[..., 1]
        shapes = np.any([o.mask for o in one.objects], axis=0).astype(np.uint8)
        kernel = np.ones((7, 7), np.uint8)
        inside = cv2.erode(shapes, kernel).astype(bool)
        outside = ~cv2.dilate(shapes, kernel).astype(bool)
        shape, ground = saturation[inside], saturation[outside]
        assert np.percentile(shape, 5) > np.percentile(ground, 95)


def test_labels_are_those_of_the_outlines(scenes: list[Scene]) -> None:
    seen = set()
    for one in scenes:
        # Only the foremost object is whole for certain.
        front = one.objects[-1]
        (contour,), _ = cv2.findContours(
            front.mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        _, radius = cv2.minEnclosingCircle(contour)
        roundness = cv2.contourArea(contour) / (np.pi * radius**2)
        expected = {"circle": 1.0, "square": 0.64, "triangle": 0.41}
        name = CLASSES[front.label]
        assert abs(roundness - expected[name]) < 0.1, name
        seen.add(name)
    assert seen == set(CLASSES)


def test_all_classes_and_coco_sizes_are_there(scenes: list[Scene]) -> None:
    objects = [o for one in scenes for o in one.objects]
    labels = Counter(o.label for o in objects)
    assert min(labels[i] for i in range(len(CLASSES))) > len(objects) / 8
    areas = np.array([o.mask.sum() for o in objects])
    sizes = np.histogram(areas, [0, 32**2, 96**2, SIZE**2])[0]
    assert min(sizes) >= 5, sizes


def test_some_objects_are_hidden_in_part(scenes: list[Scene]) -> None:
    # All outlines are convex: only a hidden part leaves a mask that is not.
    partly = 0
    for one in scenes:
        for item in one.objects[:-1]:
            points = np.argwhere(item.mask)[:, ::-1].astype(np.int32)
            hull = cv2.contourArea(cv2.convexHull(points))
            partly += item.mask.sum() < 0.9 * hull
    assert partly >= 5
