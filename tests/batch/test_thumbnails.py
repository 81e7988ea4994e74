"""Outlines hold what the masks hold."""

import io
import re

import cv2
import numpy as np
import pytest
from jaxtyping import Bool
from PIL import Image

from no_time_to_train.batch.thumbnails import Picture, picture_of


def filled(picture: Picture, path: str) -> Bool[np.ndarray, "H W"]:
    """Fill a path by the even-odd rule, at the size of the picture."""
    outlines = []
    for part in re.findall(r"M([^z]*)z", path):
        start, _, steps = part.partition("l")
        points = np.array([start.split(), *zip(*[iter(steps.split())] * 2, strict=True)], dtype=int).cumsum(axis=0)
        outlines.append(np.rint(points * 2**8 / 10 - 2**7).astype(np.int32))
    canvas = np.zeros((picture.height, picture.width), np.uint8)
    cv2.fillPoly(canvas, outlines, 1, shift=8)
    return canvas > 0


def ring(height: int, width: int) -> Bool[np.ndarray, "H W"]:
    """A ring, and a disc beside it."""
    rows, columns = np.mgrid[:height, :width]
    distance = np.hypot(rows - height / 2, columns - width / 3)
    far = np.hypot(rows - height / 2, columns - 0.85 * width)
    found: Bool[np.ndarray, "H W"] = ((distance < height / 3) & (distance > height / 6)) | (far < height / 8)
    return found


@pytest.mark.parametrize("size", [(300, 400), (2000, 3000), (48, 64)])
def test_outlines_hold_what_masks_hold(size: tuple[int, int]) -> None:
    mask = ring(*size)
    picture = picture_of(Image.new("RGB", size[::-1]), 640)
    assert max(picture.width, picture.height) == min(640, max(size))
    small = np.asarray(Image.fromarray(mask).resize((picture.width, picture.height), Image.Resampling.BOX))
    got = filled(picture, picture.outline(mask))
    # Along edges outlines may be half a pixel off.
    edges = cv2.dilate(small.astype(np.uint8), np.ones((5, 5))) != cv2.erode(small.astype(np.uint8), np.ones((5, 5)))
    assert np.array_equal(got[~edges], small[~edges])
    assert not got[size[0] // 2 * picture.height // size[0], round(picture.width / 3)]  # the hole


def test_a_part_lies_where_it_was_cut_out() -> None:
    mask = ring(300, 400)
    picture = picture_of(Image.new("RGB", (400, 300)), 200)
    whole, part = picture.outline(mask), picture.outline(mask[40:260, 30:390], (30, 40))
    assert np.array_equal(filled(picture, whole), filled(picture, part))
    assert picture.view_box == "0 0 2000 1500"
    assert picture.box((40, 60, 100, 20)) == (200, 300, 500, 100)


def test_small_masks_and_none() -> None:
    picture = picture_of(Image.new("RGB", (3000, 10)), 640)
    assert (picture.width, picture.height) == (640, 2)
    mask = np.zeros((10, 3000), dtype=bool)
    assert not picture.outline(mask)
    mask[3, 1500] = True
    # Too small for the picture, and seen all the same.
    assert picture.outline(mask) == "M3200 7l2 0z"


def test_pictures_are_small_and_the_same_each_time() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize((1600, 1200))
    picture = picture_of(image, 640)
    assert picture == picture_of(image, 640)
    with Image.open(io.BytesIO(picture.jpeg)) as read:
        assert (read.format, read.size) == ("JPEG", (640, 480))
