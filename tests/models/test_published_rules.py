"""The original's rules, each against its words or against hand-made numbers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from no_time_to_train.errors import ConfigError
from no_time_to_train.models.protocols import (
    corner_points,
    fractional_mask,
    resize_in_uint8,
    resize_reference,
    resize_target,
    truncated_window,
)

CPU = torch.device("cpu")


def picture(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@pytest.mark.parametrize("shape", [(40, 60), (300, 20), (1, 1), (64, 64)])
@pytest.mark.parametrize("size", [(48, 48), (16, 32)])
def test_sam2s_input_is_pillows_resize_in_8_bits(shape: tuple[int, int], size: tuple[int, int]) -> None:
    image = picture(*shape)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    got = resize_in_uint8(image, size, CPU)
    assert got.shape == (1, 3, *size)
    assert torch.equal((got[0] * 255).round().byte(), torch.from_numpy(np.array(pillow)).permute(2, 0, 1))
    assert torch.equal(got * 255, (got * 255).round())


def test_a_target_is_loaded_at_1024_whatever_the_encoder_takes() -> None:
    image = picture(500, 700)
    loaded = resize_in_uint8(image, (1024, 1024), CPU)
    expected = F.interpolate(loaded, size=(112, 112), mode="bicubic")
    assert torch.equal(resize_target(image, (112, 112), CPU), expected)
    # Not antialiased, and not by way of the encoder's size.
    antialiased = F.interpolate(loaded, size=(112, 112), mode="bicubic", antialias=True)
    assert (expected - antialiased).abs().max() > 0.05
    assert (expected - resize_in_uint8(image, (112, 112), CPU)).abs().max() > 0.01


def test_a_reference_is_resized_in_float_and_overshoots() -> None:
    got = resize_reference(picture(40, 30), (64, 64), CPU)
    assert got.min() < 0
    assert got.max() > 1
    edge = torch.zeros(3, 8, 8, dtype=torch.uint8)
    edge[:, :, 4:] = 255
    # In 8 bits, values between the two would be whole 255ths.
    values = resize_reference(edge, (64, 64), CPU) * 255
    assert (values - values.round()).abs().max() > 0.1


def test_points_reach_from_pixel_to_pixel_column_by_column() -> None:
    points = corner_points(3, 9)
    assert points.tolist() == [[x, y] for x in (0.5, 4.5, 8.5) for y in (0.5, 4.5, 8.5)]
    assert corner_points(1, 9).tolist() == [[0.5, 0.5]]
    assert corner_points(32, 1024)[-1].tolist() == [1023.5, 1023.5]
    with pytest.raises(ConfigError, match="points_per_side"):
        corner_points(0, 9)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        # 21..51 by 30..50: 30 is the longer side, 36 the window's, around 36 and 40.
        ((21.9, 30.9, 30.0, 20.0), (18, 22, 54, 58)),
        # Left and top of the border, where truncation goes to 0.
        ((0.0, 0.0, 30.0, 30.0), (0, 0, 33, 33)),
        # Right and bottom of it.
        ((70.0, 70.0, 30.0, 30.0), (67, 67, 100, 100)),
        # Larger than the image.
        ((0.0, 0.0, 100.0, 100.0), (0, 0, 100, 100)),
        # Odd sides: halves of pixels are truncated at both ends. 10..15: center 12.5, half 3.
        ((10.0, 10.0, 5.0, 5.0), (9, 9, 15, 15)),
        # Outside of the image: the last pixel.
        ((150.0, 120.0, 10.0, 10.0), (99, 99, 100, 100)),
        # Less than a pixel, of which the original makes an empty window.
        ((99.5, 0.2, 0.3, 0.3), (98, 0, 99, 1)),
    ],
)
def test_windows_are_truncated(box: tuple[float, float, float, float], expected: tuple[int, int, int, int]) -> None:
    assert truncated_window(box, 100, 100, 1.2) == expected


def test_the_window_of_a_reference_in_an_image_that_is_not_square() -> None:
    # 80..110 by 40..50: center 95 and 45, half 18.
    assert truncated_window((80.0, 40.0, 30.0, 10.0), height=60, width=120, scale=1.2) == (77, 27, 113, 60)
    assert truncated_window((80.0, 40.0, 30.0, 10.0), height=120, width=100, scale=1.2) == (77, 27, 100, 63)
    assert truncated_window((300.0, 300.0, 9.0, 9.0), height=60, width=120, scale=1.2) == (119, 59, 120, 60)


@given(
    box=st.tuples(*(st.floats(-2, 300, width=32) for _ in range(2)), *(st.floats(0, 300, width=32) for _ in range(2))),
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    scale=st.floats(1, 4),
)
def test_windows_are_within_the_image(
    box: tuple[float, float, float, float], height: int, width: int, scale: float
) -> None:
    x1, y1, x2, y2 = truncated_window(box, height, width, scale)
    assert 0 <= x1 < x2 <= width
    assert 0 <= y1 < y2 <= height


@pytest.mark.parametrize(("side", "grid"), [(64, 4), (70, 5), (96, 3)])
def test_masks_weigh_patches_by_their_corners(side: int, grid: int) -> None:
    """Patches of 16, 14 and 32 pixels."""
    mask = torch.zeros(10, 13, dtype=torch.bool)
    mask[2:8, 3:9] = True
    resized = F.interpolate(mask[None, None].float(), size=(side, side), mode="bilinear")[0, 0]
    weights = fractional_mask(mask, (side, side), (grid, grid))
    assert torch.equal(weights, resized[:: side // grid, :: side // grid])
    assert ((weights > 0) & (weights < 1)).any()


def test_a_grid_that_is_not_square() -> None:
    mask = torch.zeros(4, 6, dtype=torch.bool)
    mask[1, 4] = True
    # At its own size each patch is 2 pixels high and 3 wide, and its corner decides.
    assert fractional_mask(mask.roll((-1, -1), (0, 1)), (4, 6), (2, 2)).tolist() == [[0, 1], [0, 0]]
    # Corners miss it here: the patch that it touches counts.
    assert fractional_mask(mask, (4, 6), (2, 3)).tolist() == [[0, 0, 1], [0, 0, 0]]


@pytest.mark.parametrize("resize", [resize_target, resize_reference, resize_in_uint8])
def test_sizes_are_height_and_width(resize: Callable[..., Tensor]) -> None:
    image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    image[1, :10] = 255  # the upper half is green
    resized = resize(image, (32, 64), CPU)
    assert resized.shape == (1, 3, 32, 64)
    assert torch.equal(resized[0, 1] > 0.5, torch.arange(32)[:, None].expand(-1, 64) < 16)
    assert not resized[0, 0].any()
    assert not resized[0, 2].any()


def test_a_mask_that_the_corners_miss_weighs_what_it_touches() -> None:
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[40, 56] = True
    assert fractional_mask(mask, (64, 64), (4, 4)).nonzero().tolist() == [[2, 3]]
    assert not fractional_mask(mask & False, (64, 64), (4, 4)).any()
