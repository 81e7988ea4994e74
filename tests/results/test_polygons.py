"""Polygons of masks, read back by two programs that fill polygons."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from no_time_to_train.data.coco import Annotation, decode_mask
from no_time_to_train.results.polygons import mask_to_polygons, mask_to_ring

# Pillow fills this many pixels for one, of which the middle one counts.
SCALE = 25


def filled_by_pycocotools(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    return decode_mask(Annotation(1, 1, 1, (0, 0, 0, 0), 0, polygons), height, width)


def filled_by_pillow(polygons: list[list[float]], height: int, width: int) -> np.ndarray:
    image = Image.new("1", (width * SCALE, height * SCALE))
    for polygon in polygons:
        ImageDraw.Draw(image).polygon([value * SCALE - 0.5 for value in polygon], fill=1)
    return np.asarray(image)[SCALE // 2 :: SCALE, SCALE // 2 :: SCALE]


def check(mask: np.ndarray) -> list[list[float]]:
    polygons = mask_to_polygons(mask)
    np.testing.assert_array_equal(filled_by_pycocotools(polygons, *mask.shape), mask)
    np.testing.assert_array_equal(filled_by_pillow(polygons, *mask.shape), mask)
    return polygons


@pytest.mark.parametrize("seed", range(8))
def test_noise_is_read_back_exactly(seed: int) -> None:
    """Holes in holes, parts in holes, holes next to each other and at the border, single pixels."""
    rng = np.random.default_rng(seed)
    for _ in range(20):
        height, width = rng.integers(1, 20, 2)
        mask = rng.random((height, width)) < rng.random() ** 0.4
        if mask.any():
            check(mask)


def test_holes_stay_holes() -> None:
    mask = np.zeros((40, 60), dtype=bool)
    mask[3:37, 2:58] = True
    # In one row, one above the other, one around a part that has a hole itself.
    mask[6:10, 5:9] = mask[6:10, 15:19] = mask[20:30, 5:9] = mask[5:35, 30:50] = False
    mask[10:30, 35:45] = True
    mask[15:20, 38:42] = False
    outer, inner = sorted(check(mask), key=len, reverse=True)
    # A cut has four ends.
    assert len(outer) == 2 * (5 * 8 + 4 * 4)
    assert len(inner) == 2 * (2 * 8 + 4)


def test_polygons_do_not_touch_themselves() -> None:
    mask = np.random.default_rng(1).random((12, 12)) < 0.7
    for polygon in mask_to_polygons(mask):
        points = [tuple(polygon[index : index + 2]) for index in range(0, len(polygon), 2)]
        assert len(set(points)) == len(points)
        edges = list(pairwise([*points, points[0]]))
        crossing = [
            (one, other)
            for index, one in enumerate(edges)
            for other in edges[index + 1 :]
            if _cross(one, other) and _cross(other, one)
        ]
        assert not crossing


def _cross(one: tuple[tuple[float, ...], ...], other: tuple[tuple[float, ...], ...]) -> bool:
    """Return whether the ends of one edge are on different sides of the line through the other."""
    (x1, y1), (x2, y2) = other
    first, second = ((x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) for x, y in one)
    return first * second < 0


def test_parts_are_polygons_of_their_own() -> None:
    mask = np.zeros((9, 9), dtype=bool)
    mask[:3, :3] = mask[5:, 5:] = mask[4, 4] = True
    assert len(check(mask)) == 3


def test_an_empty_mask_has_no_polygon() -> None:
    assert mask_to_polygons(np.zeros((3, 4), dtype=bool)) == []


def check_ring(mask: np.ndarray) -> None:
    ring = [mask_to_ring(mask).reshape(-1).tolist()]
    np.testing.assert_array_equal(filled_by_pycocotools(ring, *mask.shape), mask)


@pytest.mark.parametrize("seed", range(4))
def test_parts_are_joined_to_one_ring(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(20):
        height, width = rng.integers(1, 20, 2)
        mask = rng.random((height, width)) < rng.random() ** 0.4
        if mask.any():
            check_ring(mask)


def test_parts_with_many_corners_are_joined_in_bounded_memory() -> None:
    """Of more than 1,000 corners some are compared."""
    mask = np.zeros((9, 2000), dtype=bool)
    mask[[1, 7]] = True
    mask[2:4, ::2] = mask[5:7, 1::2] = True
    assert min(len(polygon) // 2 for polygon in mask_to_polygons(mask)) > 1000
    check_ring(mask)
